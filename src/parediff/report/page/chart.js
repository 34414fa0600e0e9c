"use strict";

/* The scatter: uPlot keeps scales, cursor and zoom; points, lines and fronts are painted by one routine for screen and export. */
{
  const { format, pens } = parediff;
  const FONT = "ui-sans-serif, system-ui, 'Segoe UI', sans-serif";
  const MOST_BARS = 400, MOST_LABELS = 60, CROWD = 2000, REACH = 14, LOG_FROM = 8;
  const DASHES = [[7, 5], [2, 4], [8, 4, 2, 4], [12, 5]];
  const FRONT_COLOURS = ["--front", "#2f7de1", "#d9532c", "#9a5cd0", "#b07d00", "#0f9b8e", "#d6409f", "#7d766d"];
  let plot = null, scene = null, focused = null;

  /* Ticks for a range in the scale's own coordinate: 1, 2, 5 steps, or 1, 2, 5 times powers of ten. */
  const ticks = (low, high, log, most) => {
    if (log) {
      for (const digits of [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 5], [1, 3], [1]]) {
        const found = [];
        for (let power = Math.floor(low); power <= Math.ceil(high); power++)
          for (const digit of digits) { const at = power + Math.log10(digit); if (at >= low && at <= high) found.push(at); }
        if (found.length <= most && found.length > 1) return found;
      }
      if (high - low > most) { const step = Math.ceil((high - low) / most); return Array.from({ length: Math.floor((high - Math.ceil(low)) / step) + 1 }, (_, k) => Math.ceil(low) + k * step); }
      return linear(10 ** low, 10 ** high, most).filter((value) => value > 0).map(Math.log10);
    }
    return linear(low, high, most);
  };
  function linear(low, high, most) {
    const rough = (high - low) / Math.max(1, most), size = 10 ** Math.floor(Math.log10(rough));
    const step = size * ([1, 2, 5, 10].find((factor) => factor * size >= rough) ?? 10);
    const first = Math.ceil(low / step), count = Math.floor(high / step + 1e-9) - first + 1;
    return Array.from({ length: Math.max(0, count) }, (_, k) => (first + k) * step);
  }
  const tickText = (at, log, step) => {
    const value = log ? 10 ** at : at;
    if (log) return Number(value.toPrecision(6)).toString();
    const places = step >= 1 || !Number.isFinite(step) ? 0 : Math.min(10, Math.ceil(-Math.log10(step) - 1e-9));
    return Math.abs(value) >= 1e6 ? value.toExponential(1) : value.toFixed(places);
  };

  const padded = (values, share) => {
    let low = Infinity, high = -Infinity;
    for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
    if (low > high) return [0, 1];
    const margin = (high - low) * share || Math.max(Math.abs(high) * 0.1, 0.1);
    return [low - margin, high + margin];
  };

  /* What is to be drawn, from the fronts and the state: units, scales and styles are decided here once. */
  const sceneOf = (fronts, columnX, columnY, state, published) => {
    const all = fronts.flatMap((front) => front.points);
    const unitX = format.unitFor(columnX, all.map((point) => point.x)), unitY = format.unitFor(columnY, all.map((point) => point.y));
    const bounds = (axis) => {
      let low = Infinity, high = -Infinity;
      for (const point of all) { if (point[axis] < low) low = point[axis]; if (point[axis] > high) high = point[axis]; }
      return [low, high];
    };
    const [lowX, highX] = bounds("x"), [lowY, highY] = bounds("y");
    const logX = lowX > 0 && (state.logX ?? highX / lowX > 1.5), logY = lowY > 0 && (state.logY ?? (columnY.better !== "higher" && highY / lowY > LOG_FROM));
    const toX = (value) => (logX ? Math.log10(value / unitX.scale) : value / unitX.scale);
    const toY = (value) => (logY ? Math.log10(value / unitY.scale) : value / unitY.scale);
    const reach = (point) => [Math.max(point.y - (point.yError ?? 0), logY ? point.y / 2 : -Infinity), point.y + (point.yError ?? 0)];
    const own = { fronts, all, columnX, columnY, unitX, unitY, logX, logY, toX, toY, reach, canLogX: lowX > 0, canLogY: lowY > 0, published };
    for (const point of all) { point.px = toX(point.x); point.py = toY(point.y); }
    const few = all.length <= MOST_BARS;
    own.rangeX = padded(all.map((point) => point.px), 0.06);
    own.rangeY = padded(few ? all.flatMap((point) => reach(point).map(toY)) : all.map((point) => point.py), 0.07);
    return own;
  };

  const zoomed = () => {
    const zoom = parediff.state.zoom;
    if (!zoom || !scene) return null;
    const ends = [scene.toX(zoom[0]), scene.toX(zoom[1]), scene.toY(zoom[2]), scene.toY(zoom[3])];
    return ends.every(Number.isFinite) && ends[0] < ends[1] && ends[2] < ends[3] ? ends : null;
  };
  const rangeOf = (axis) => { const ends = zoomed(); return ends ? ends.slice(axis === "x" ? 0 : 2, axis === "x" ? 2 : 4) : scene[axis === "x" ? "rangeX" : "rangeY"]; };

  /* Everything inside the axes. `at` maps a point's coordinates to pixels, `unit` is pixels for one CSS pixel. */
  const paint = (pen, at, box, unit, sprites) => {
    const inside = (x, y) => x >= box.left - 8 * unit && x <= box.right + 8 * unit && y >= box.top - 8 * unit && y <= box.bottom + 8 * unit;
    const selected = new Set(parediff.state.selected), quiet = parediff.colour("--quiet"), ink = parediff.colour("--ink"), plain = [quiet, "circle"];
    const styleOf = (point) => parediff.told.styles[point.methods] ?? plain;
    scene.fronts.forEach((front, place) => {
      const colour = scene.fronts.length === 1 ? parediff.colour("--front") : frontColour(place);
      stairs(pen, front.points.filter((point) => point.onFront), at, colour, unit);
    });
    scene.fronts.forEach((front) => front.lines.forEach((line, place) => {
      pen.beginPath();
      line.points.forEach((point, index) => { const [x, y] = at(point.px, point.py); pen[index ? "lineTo" : "moveTo"](x, y); });
      pen.strokeStyle = quiet; pen.lineWidth = 1.6 * unit; pen.globalAlpha = 1;
      pen.setLineDash(DASHES[place % DASHES.length].map((length) => length * unit)); pen.stroke(); pen.setLineDash([]);
    }));
    levels(pen, at, box, unit);
    const bars = scene.all.length <= MOST_BARS ? scene.all : scene.all.filter((point) => point.onFront);
    for (const point of bars) errorBar(pen, point, at, unit, styleOf(point)[0]);
    const crowded = scene.all.length > CROWD;
    if (crowded) crowd(pen, at, unit, styleOf, inside);
    for (const front of crowded ? [true] : [false, true]) for (const point of scene.all) {
      if (point.onFront !== front) continue;
      const [x, y] = at(point.px, point.py);
      if (!inside(x, y)) continue;
      const [colour, shape] = styleOf(point), radius = (front ? 5 : 3.6) * unit;
      pen.globalAlpha = front ? 1 : 0.42;
      const shown = front ? colour : point.methods ? colour : quiet;
      if (sprites) { const image = pens.sprite(shape, shown, front, radius); pen.drawImage(image, Math.round(x - image.width / 2), Math.round(y - image.height / 2)); continue; }
      pens.mark(pen, shape, x, y, radius);
      pen.fillStyle = pen.strokeStyle = shown; pen.lineWidth = Math.max(1, radius / 3.2);
      if (front) pen.fill();
      pen.stroke();
    }
    pen.globalAlpha = 1;
    for (const point of scene.all) {
      const chosen = selected.size && point.runs.some((run) => selected.has(parediff.store.text("id", run)));
      if (!chosen && point !== focused) continue;
      const [x, y] = at(point.px, point.py);
      pens.mark(pen, "circle", x, y, 9 * unit);
      pen.strokeStyle = chosen ? "#2f7de1" : ink; pen.lineWidth = 2 * unit; pen.stroke();
    }
    labels(pen, at, box, unit, ink);
  };

  /* Thousands of dominated points: a small square each, colour by colour. */
  function crowd(pen, at, unit, styleOf, inside) {
    const colours = new Map(), size = 3 * unit;
    for (const point of scene.all) {
      if (point.onFront) continue;
      const [colour] = styleOf(point);
      if (!colours.has(colour)) colours.set(colour, []);
      colours.get(colour).push(point);
    }
    pen.globalAlpha = 0.42;
    for (const [colour, own] of colours) {
      pen.fillStyle = colour;
      for (const point of own) { const [x, y] = at(point.px, point.py); if (inside(x, y)) pen.fillRect(x - size / 2, y - size / 2, size, size); }
    }
    pen.globalAlpha = 1;
  }

  const frontColour = (place) => place ? FRONT_COLOURS[place % FRONT_COLOURS.length] : parediff.colour("--accent");

  function stairs(pen, own, at, colour, unit) {
    pen.beginPath();
    let before = null;
    for (const point of own) {
      const [x, y] = at(point.px, point.py);
      if (before) { pen.lineTo(x, before); pen.lineTo(x, y); } else pen.moveTo(x, y);
      before = y;
    }
    pen.strokeStyle = colour; pen.lineWidth = 4 * unit; pen.globalAlpha = 0.75; pen.stroke(); pen.globalAlpha = 1;
  }

  function errorBar(pen, point, at, unit, colour) {
    if (!point.yError && !point.xError) return;
    pen.beginPath();
    if (point.yError) {
      const [low, high] = scene.reach(point), [x, top] = at(point.px, scene.toY(high)), [, bottom] = at(point.px, scene.toY(low));
      pen.moveTo(x, top); pen.lineTo(x, bottom);
      for (const y of [top, bottom]) { pen.moveTo(x - 3 * unit, y); pen.lineTo(x + 3 * unit, y); }
    }
    if (point.xError) {
      const left = scene.logX ? Math.max(point.x - point.xError, point.x / 2) : point.x - point.xError;
      const [from, y] = at(scene.toX(left), point.py), [to] = at(scene.toX(point.x + point.xError), point.py);
      pen.moveTo(from, y); pen.lineTo(to, y);
    }
    pen.strokeStyle = colour; pen.lineWidth = 1.2 * unit; pen.globalAlpha = point.onFront ? 0.9 : 0.4; pen.stroke(); pen.globalAlpha = 1;
  }

  /* Published numbers: a point where their cost is known, else a level; dashed by how far they were verified. */
  function levels(pen, at, box, unit) {
    for (const own of scene.published) {
      const cost = own.cost[scene.columnX.key] ?? own.cost[scene.columnX.key.split(".")[1]];
      const [x, y] = at(cost === undefined ? 0 : scene.toX(cost), scene.toY(own.value));
      pen.strokeStyle = pen.fillStyle = parediff.colour("--warn"); pen.lineWidth = 1.2 * unit;
      if (!(y >= box.top && y <= box.bottom)) continue;
      if (cost === undefined) {
        pen.setLineDash(own.status === "primary" ? [] : [2 * unit, 3 * unit]);
        pen.beginPath(); pen.moveTo(box.left, y); pen.lineTo(box.right, y); pen.stroke(); pen.setLineDash([]);
      } else { pens.mark(pen, "pentagon", x, y, 5 * unit); pen.stroke(); }
      pen.font = `${11 * unit}px ${FONT}`; pen.textBaseline = "alphabetic"; pen.textAlign = "right";
      pen.fillText(`${own.method ?? own.source} ${own.bits ?? ""} (${own.status})`, box.right - 4 * unit, y - 3 * unit);
    }
  }

  /* Names beside points of the fronts and lines, where there is room: no name covers a point of a front or another name. */
  function labels(pen, at, box, unit, ink) {
    const marked = scene.all.filter((point) => point.onFront || !point.methods);
    const spots = marked.map((point) => at(point.px, point.py)), height = 14 * unit, gap = 9 * unit;
    const taken = spots.map(([x, y]) => [x - 6 * unit, y - 6 * unit, x + 6 * unit, y + 6 * unit]);
    pen.font = `${12 * unit}px ${FONT}`; pen.textBaseline = "middle"; pen.fillStyle = ink;
    let written = 0;
    for (let index = 0; index < marked.length && written < MOST_LABELS; index++) {
      const [x, y] = spots[index], text = nameOf(marked[index]), width = pen.measureText(text).width;
      if (x < box.left || x > box.right || y < box.top || y > box.bottom) continue;
      const tries = [["left", x + gap * 0.6, y - height * 0.8], ["left", x + gap, y], ["left", x + gap * 0.6, y + height * 0.8], ["right", x - gap, y], ["right", x - gap * 0.6, y - height * 0.8], ["right", x - gap * 0.6, y + height * 0.8]];
      for (const [align, tx, ty] of tries) {
        const left = align === "left" ? tx : tx - width, area = [left, ty - height / 2, left + width, ty + height / 2];
        const fits = area[0] >= box.left && area[2] <= box.right && area[1] >= box.top && area[3] <= box.bottom;
        if (!fits || taken.some((other, k) => k !== index && area[0] < other[2] && other[0] < area[2] && area[1] < other[3] && other[1] < area[3])) continue;
        pen.textAlign = align; pen.fillText(text, tx, ty); taken.push(area); written++;
        break;
      }
    }
  }
  const nameOf = (point) => {
    const name = parediff.labelOf(point);
    return name.length > 44 ? `${name.slice(0, 43)}…` : name;
  };

  const draw = (u) => {
    const unit = devicePixelRatio, { left, top, width, height } = u.bbox;
    const box = { left, top, right: left + width, bottom: top + height };
    u.ctx.save();
    u.ctx.beginPath(); u.ctx.rect(left, top - 6 * unit, width + 8 * unit, height + 12 * unit); u.ctx.clip();
    const { x: { min: x0, max: x1 }, y: { min: y0, max: y1 } } = u.scales, perX = width / (x1 - x0), perY = height / (y1 - y0);
    paint(u.ctx, (x, y) => [left + (x - x0) * perX, box.bottom - (y - y0) * perY], box, unit, true);
    u.ctx.restore();
  };

  const axis = (name) => ({
    scale: name, stroke: () => parediff.colour("--soft"), font: `12px ${FONT}`, grid: { stroke: () => parediff.colour("--grid"), width: 1 },
    ticks: { stroke: () => parediff.colour("--quiet"), width: 1, size: 5 }, size: name === "y" ? 58 : 32,
    splits: (u) => ticks(...rangeOf(name), scene[name === "x" ? "logX" : "logY"], (name === "x" ? u.bbox.width : u.bbox.height) / devicePixelRatio / (name === "x" ? 62 : 42)),
    values: (_, own) => own.map((at) => tickText(at, scene[name === "x" ? "logX" : "logY"], own[1] - own[0])),
    filter: (_, own) => own,
  });

  const create = (host) => {
    const options = {
      width: host.clientWidth, height: host.clientHeight, legend: { show: false }, padding: [10, 14, 0, 0],
      scales: { x: { time: false, auto: false, range: () => rangeOf("x") }, y: { auto: false, range: () => rangeOf("y") } },
      axes: [axis("x"), axis("y")], series: [{}, { paths: () => null, points: { show: false } }],
      cursor: { drag: { x: true, y: true, setScale: false, dist: 6 }, points: { show: false }, y: true, x: true, focus: { prox: -1 } },
      hooks: { draw: [draw], setSelect: [select] },
    };
    plot = new uPlot(options, [[0, 1], [0, 1]], host);
    plot.over.addEventListener("mousemove", (event) => point(event));
    plot.over.addEventListener("mouseleave", () => parediff.tip.hide());
    plot.over.addEventListener("click", (event) => { const found = nearest(event); if (found) parediff.pick(found, event.shiftKey); });
    plot.over.addEventListener("dblclick", () => parediff.go({ zoom: null }));
    host.addEventListener("keydown", keyed);
    new ResizeObserver(() => plot.setSize({ width: host.clientWidth, height: host.clientHeight })).observe(host);
  };

  function select(u) {
    const { left, top, width, height } = u.select;
    if (width < 6 && height < 6) return;
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    const back = (value, log, unit) => (log ? 10 ** value : value) * unit.scale;
    const xs = [left, left + width].map((at) => back(u.posToVal(at, "x"), scene.logX, scene.unitX));
    const ys = [top + height, top].map((at) => back(u.posToVal(at, "y"), scene.logY, scene.unitY));
    parediff.go({ zoom: [...xs, ...ys].map((value) => Number(value.toPrecision(5))) });
  }

  function nearest(event) {
    const box = plot.over.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = REACH, found = null;
    for (const own of scene.all) {
      const away = Math.hypot(plot.valToPos(own.px, "x") - x, plot.valToPos(own.py, "y") - y) - (own.onFront ? 2 : 0);
      if (away < best) [best, found] = [away, own];
    }
    return found;
  }
  function point(event) {
    const found = scene && nearest(event);
    plot.over.style.cursor = found ? "pointer" : "crosshair";
    if (found) parediff.tip.show(found, event.clientX, event.clientY, scene); else parediff.tip.hide();
  }

  /* Arrow keys walk along the points, Home and End to the ends; Enter opens a run, the space bar selects it. */
  function keyed(event) {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!scene?.all.length) return;
    if (step || event.key === "Home" || event.key === "End") {
      const place = event.key === "Home" ? 0 : event.key === "End" ? scene.all.length - 1 : (scene.all.indexOf(focused) + step + scene.all.length) % scene.all.length;
      focused = scene.all[place < 0 ? 0 : place];
      const box = plot.over.getBoundingClientRect();
      parediff.tip.show(focused, box.left + plot.valToPos(focused.px, "x"), box.top + plot.valToPos(focused.py, "y"), scene);
      plot.redraw(false);
    } else if ((event.key === "Enter" || event.key === " ") && focused) parediff.pick(focused, event.key === " ");
    else if (event.key === "Escape") { focused = null; parediff.tip.hide(); plot.redraw(false); }
    else return;
    event.preventDefault();
  }

  const show = (host, made) => {
    scene = made;
    focused = focused && (made.all.find((own) => own.runs[0] === focused.runs[0]) ?? null);
    host.hidden = !made.all.length;
    if (host.hidden) return;
    if (!plot) create(host);
    plot.batch(() => {
      for (const name of ["x", "y"]) { const [min, max] = rangeOf(name); plot.setScale(name, { min, max }); }
      plot.redraw(false, true);
    });
  };

  /* The chart with its axes, titles and key, drawn with any pen: what PNG and SVG hold. */
  const picture = (pen, width, height, keys) => {
    const box = { left: 64, top: 44, right: width - 20, bottom: height - 58 - 18 * Math.ceil(keys.length / 3) };
    const [x0, x1] = rangeOf("x"), [y0, y1] = rangeOf("y");
    const at = (x, y) => [box.left + ((x - x0) / (x1 - x0)) * (box.right - box.left), box.bottom - ((y - y0) / (y1 - y0)) * (box.bottom - box.top)];
    const write = (text, x, y, align, bold) => { pen.font = `${bold ? "600 " : ""}12px ${FONT}`; pen.textAlign = align; pen.textBaseline = "middle"; pen.fillStyle = parediff.colour("--ink"); pen.fillText(text, x, y); };
    const line = (from, to, colour) => { pen.beginPath(); pen.moveTo(...from); pen.lineTo(...to); pen.strokeStyle = colour; pen.lineWidth = 1; pen.stroke(); };
    for (const [name, log, low, high, most] of [["x", scene.logX, x0, x1, (box.right - box.left) / 62], ["y", scene.logY, y0, y1, (box.bottom - box.top) / 42]]) {
      const own = ticks(low, high, log, most);
      for (const value of own) {
        const [x, y] = at(name === "x" ? value : x0, name === "y" ? value : y0), text = tickText(value, log, own[1] - own[0]);
        if (name === "x") { line([x, box.top], [x, box.bottom], parediff.colour("--grid")); write(text, x, box.bottom + 13, "center"); }
        else { line([box.left, y], [box.right, y], parediff.colour("--grid")); write(text, box.left - 7, y, "right"); }
      }
    }
    paint(pen, at, box, 1, false);
    write(parediff.at("axis-y-title").textContent, 12, 18, "left", true);
    write(parediff.at("axis-x-title").textContent, box.right, box.bottom + 33, "right", true);
    keys.forEach(({ name, style }, place) => {
      const x = box.left + (place % 3) * ((box.right - box.left) / 3), y = box.bottom + 54 + 18 * Math.floor(place / 3);
      pens.mark(pen, style[1], x, y, 4.5); pen.fillStyle = style[0]; pen.fill(); write(name, x + 11, y, "left");
    });
  };

  parediff.chart = { sceneOf, show, picture, frontColour, redraw: () => plot?.redraw(false, true), get scene() { return scene; }, get plot() { return plot; } };
}
