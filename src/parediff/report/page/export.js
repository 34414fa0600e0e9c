"use strict";

/* What is seen, to take away: the filtered runs in the order of the table, the chart as it is drawn. */
{
  const { at, pens } = parediff;
  const SECTIONS = ["run", "quality", "fidelity", "stderr", "cost", "ratio", "difference", "seconds", "config"];

  parediff.save = (name, content, kind) => {
    const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type: kind }));
    const link = parediff.make("a", { href: address, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  };

  /* A text that a spreadsheet would take for a formula is marked as text. */
  const cell = (value) => {
    if (value === null) return "";
    const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };

  const keys = (runs) => parediff.store.keys(...SECTIONS).filter((key) => runs.some((run) => parediff.store.value(key, run) !== null));
  const csv = (runs) => {
    const own = keys(runs);
    return [["label", ...own].map(cell).join(","), ...runs.map((run) => ["label", ...own].map((key) => cell(parediff.store.value(key, run))).join(","))].join("\r\n") + "\r\n";
  };
  const json = (runs) => {
    const own = keys(runs), scene = parediff.chart.scene;
    const fronts = (scene?.fronts ?? []).map((front) => ({ group: front.name, hypervolume: front.volume, reference: front.reference, points: front.points.map((point) => ({ ids: point.runs.map((run) => parediff.store.text("id", run)), x: point.x, y: point.y, x_stderr: point.xError, y_stderr: point.yError, on_front: point.onFront })) }));
    const rows = runs.map((run) => Object.fromEntries(["label", ...own].map((key) => [key, parediff.store.value(key, run)]).filter(([, value]) => value !== null)));
    return JSON.stringify({ view: location.hash, x: parediff.state.x, y: parediff.state.y, fronts, runs: rows }, null, 1);
  };

  const drawn = () => {
    const combinations = [...new Set(parediff.chart.scene.all.map((point) => point.methods))].map((name) => ({ name: name || "uncompressed", style: parediff.told.styles[name] ?? [parediff.colour("--quiet"), "circle"] }));
    return { width: Math.max(700, at("chart").clientWidth), height: 620, keys: combinations.slice(0, 30) };
  };
  const svg = () => {
    const { width, height, keys: own } = drawn(), pen = new pens.SvgPen(width, height, parediff.colour("--card"));
    parediff.chart.picture(pen, width, height, own);
    return pen.text(`${at("axis-y-title").textContent} against ${at("axis-x-title").textContent}`);
  };
  const png = () => new Promise((resolve) => {
    const { width, height, keys: own } = drawn(), canvas = document.createElement("canvas"), unit = 2;
    canvas.width = width * unit; canvas.height = height * unit;
    const pen = canvas.getContext("2d");
    pen.scale(unit, unit);
    pen.fillStyle = parediff.colour("--card"); pen.fillRect(0, 0, width, height);
    parediff.chart.picture(pen, width, height, own);
    canvas.toBlob(resolve, "image/png");
  });

  parediff.exports = {
    csv: () => parediff.save("runs.csv", csv(parediff.table.ordered(parediff.shown)), "text/csv;charset=utf-8"),
    json: () => parediff.save("runs.json", json(parediff.table.ordered(parediff.shown)), "application/json"),
    svg: () => parediff.save("front.svg", svg(), "image/svg+xml"),
    png: async () => parediff.save("front.png", await png()),
  };
}
