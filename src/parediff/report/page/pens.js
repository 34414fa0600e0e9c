"use strict";

/* Markers, and a pen that draws with canvas calls into an SVG, so that what is exported is what is seen. */
{
  const SHAPES = {
    circle: null,
    square: [[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]],
    diamond: [[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]],
    "triangle-up": [[0, -1.15], [1.05, 0.8], [-1.05, 0.8]],
    "triangle-down": [[0, 1.15], [1.05, -0.8], [-1.05, -0.8]],
    cross: [[-0.4, -1.1], [0.4, -1.1], [0.4, -0.4], [1.1, -0.4], [1.1, 0.4], [0.4, 0.4], [0.4, 1.1], [-0.4, 1.1], [-0.4, 0.4], [-1.1, 0.4], [-1.1, -0.4], [-0.4, -0.4]],
    x: [[-1.1, -0.65], [-0.65, -1.1], [0, -0.45], [0.65, -1.1], [1.1, -0.65], [0.45, 0], [1.1, 0.65], [0.65, 1.1], [0, 0.45], [-0.65, 1.1], [-1.1, 0.65], [-0.45, 0]],
    pentagon: [[0, -1.15], [1.1, -0.35], [0.68, 0.95], [-0.68, 0.95], [-1.1, -0.35]],
  };

  const mark = (pen, shape, x, y, radius) => {
    const corners = SHAPES[shape];
    pen.beginPath();
    if (!corners) { pen.arc(x, y, radius, 0, 2 * Math.PI); return; }
    corners.forEach(([across, down], index) => pen[index ? "lineTo" : "moveTo"](x + across * radius, y + down * radius));
    pen.closePath();
  };

  /* A marker painted once and copied ten thousand times. */
  const sprites = new Map();
  const sprite = (shape, colour, filled, radius) => {
    const key = `${shape} ${colour} ${filled} ${radius}`;
    if (!sprites.has(key)) {
      const size = Math.ceil(radius * 3) + 2, canvas = document.createElement("canvas");
      canvas.width = canvas.height = size;
      const pen = canvas.getContext("2d");
      mark(pen, shape, size / 2, size / 2, radius);
      pen.strokeStyle = pen.fillStyle = colour;
      pen.lineWidth = Math.max(1, radius / 3.2);
      if (filled) pen.fill();
      pen.stroke();
      sprites.set(key, canvas);
    }
    return sprites.get(key);
  };

  const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" })[c]).replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, "\ufffd");
  const round = (value) => Math.round(value * 100) / 100;

  class SvgPen {
    constructor(width, height, ground) {
      Object.assign(this, { width, height, parts: [], path: "", strokeStyle: "#000", fillStyle: "#000", lineWidth: 1, globalAlpha: 1, font: "12px sans-serif", textAlign: "left", textBaseline: "alphabetic", dash: [] });
      this.parts.push(`<rect width="${width}" height="${height}" fill="${ground}"/>`);
    }
    beginPath() { this.path = ""; }
    moveTo(x, y) { this.path += `M${round(x)} ${round(y)}`; }
    lineTo(x, y) { this.path += `L${round(x)} ${round(y)}`; }
    closePath() { this.path += "Z"; }
    arc(x, y, r) { this.path += `M${round(x - r)} ${round(y)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`; }
    setLineDash(dash) { this.dash = dash; }
    fillRect(x, y, width, height) { this.parts.push(`<rect x="${round(x)}" y="${round(y)}" width="${width}" height="${height}" fill="${this.fillStyle}" opacity="${this.globalAlpha}"/>`); }
    stroke() { this.parts.push(`<path d="${this.path}" fill="none" stroke="${this.strokeStyle}" stroke-width="${this.lineWidth}" opacity="${this.globalAlpha}"${this.dash.length ? ` stroke-dasharray="${this.dash.join(" ")}"` : ""}/>`); }
    fill() { this.parts.push(`<path d="${this.path}" fill="${this.fillStyle}" opacity="${this.globalAlpha}"/>`); }
    fillText(text, x, y) {
      const anchor = { left: "start", center: "middle", right: "end" }[this.textAlign], size = parseFloat(this.font.match(/([\d.]+)px/)?.[1] ?? 12);
      const down = this.textBaseline === "middle" ? size * 0.35 : this.textBaseline === "top" ? size * 0.8 : 0;
      this.parts.push(`<text x="${round(x)}" y="${round(y + down)}" font-size="${size}"${/\b(600|bold)\b/.test(this.font) ? ' font-weight="600"' : ""} text-anchor="${anchor}" fill="${this.fillStyle}">${escaped(text)}</text>`);
    }
    measureText(text) { return { width: String(text).length * parseFloat(this.font.match(/([\d.]+)px/)?.[1] ?? 12) * 0.56 }; }
    save() {} restore() {}
    text(title) {
      return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${this.width} ${this.height}" width="${this.width}" height="${this.height}" font-family="sans-serif" role="img"><title>${escaped(title)}</title>${this.parts.join("")}</svg>`;
    }
  }
  parediff.pens = { mark, sprite, SvgPen, SHAPES, escaped };
}
