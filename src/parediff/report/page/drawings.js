"use strict";

/* What a method did, as drawings, found by the shape of what is on record: no method is known by name here. */
{
  const { make } = parediff;
  const NS = "http://www.w3.org/2000/svg", HEIGHT = 90, MOST_LAYERS = 600, MOST_SERIES = 24;
  const PAIRS = [["weight_bits", "activation_bits"], ["a_bits", "b_bits"]], SIDES = ["#2f7de1", "#d9532c"], FULL = 16;
  const isMap = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const numbers = (value) => Array.isArray(value) && value.length > 2 && value.every((own) => typeof own === "number");
  const element = (tag, attributes, text) => {
    const made = document.createElementNS(NS, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) { const title = document.createElementNS(NS, "title"); title.textContent = text; made.append(title); }
    return made;
  };
  const svg = (width, height, told, ...children) => {
    const made = element("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": told });
    made.append(...children);
    return make("div", { class: "drawing", tabindex: "0", role: "region", "aria-label": told }, made);
  };

  /* [bits of the weight or left operand, bits of the input or right operand] of a layer, however its method tells them. */
  const bitsOf = (layer) => {
    if (!isMap(layer)) return null;
    for (const keys of PAIRS) if (keys.every((key) => Number.isFinite(layer[key]))) return keys.map((key) => layer[key]);
    const inside = Object.entries(layer).filter(([, own]) => isMap(own) && Number.isFinite(own.bits));
    if (!inside.length) return null;
    const left = inside.find(([name]) => /weight|left|^a/.test(name)) ?? inside[0], right = inside.find((own) => own !== left);
    return [left[1].bits, (right ?? left)[1].bits];
  };

  const bits = (layers) => {
    const found = Object.entries(layers).map(([path, layer]) => [path, bitsOf(layer)]).filter(([, own]) => own).slice(0, MOST_LAYERS);
    if (!found.length) return null;
    const step = 13, bars = found.flatMap(([path, pair], place) => pair.map((width, side) => {
      const height = Math.max(1, (HEIGHT * Math.min(width, FULL)) / FULL), full = width >= FULL;
      return element("rect", { x: place * step + side * 5.5, y: HEIGHT - height, width: 4.5, height, fill: full ? "none" : SIDES[side], stroke: full ? "currentColor" : "none" }, `${path}: ${side ? "input" : "weight"} ${width} bits`);
    }));
    const spread = [...new Set(found.flatMap(([, pair]) => pair))].sort((a, b) => a - b).join(", ");
    return [make("h4", {}, `Bits per layer, in the network's order: weights beside inputs; hollow from ${FULL} bits on (${spread})`), svg(found.length * step, HEIGHT, `Bits of ${found.length} layers: ${spread}`, ...bars)];
  };

  /* The interval of every quantiser: its span, or the smallest and the largest step over time. */
  const intervals = (layers) => {
    const found = [];
    for (const [path, layer] of Object.entries(layers)) for (const [name, own] of Object.entries(isMap(layer) ? layer : {})) {
      if (!isMap(own)) continue;
      const span = own.interval ?? own.widest_interval ?? (Number.isFinite(own.smallest_step) ? [own.smallest_step, own.largest_step] : null);
      if (Array.isArray(span) && span.length === 2 && span.every(Number.isFinite) && /input|activ|right|^b|^a/.test(name)) found.push([`${path} ${name}`, span, own.steps_of === "time" || Array.isArray(own.widest_interval)]);
    }
    if (!found.length) return null;
    const shown = found.slice(0, MOST_LAYERS), low = Math.min(0, ...shown.map(([, span]) => span[0])), high = Math.max(...shown.map(([, span]) => span[1]), 1e-12);
    const y = (value) => HEIGHT - ((value - low) / (high - low || 1)) * HEIGHT, time = shown.some(([, , own]) => own);
    const bars = shown.map(([name, [from, to]], place) => element("rect", { x: place * 8, y: y(to), width: 6, height: Math.max(1, y(from) - y(to)), fill: SIDES[1] }, `${name}: ${from.toPrecision(3)} to ${to.toPrecision(3)}`));
    const zero = element("line", { x1: 0, x2: shown.length * 8, y1: y(0), y2: y(0), stroke: "currentColor", "stroke-width": 0.6 });
    return [make("h4", {}, time ? "Intervals of inputs: the widest over all time steps" : "Intervals of inputs"), svg(shown.length * 8, HEIGHT, `Intervals of ${shown.length} quantisers`, ...bars, zero)];
  };

  /* Which steps are computed in full: by a list of keyframes, one for each cut where there are several. */
  const schedule = (keyframes, steps) => {
    const lists = numbers(keyframes) || (Array.isArray(keyframes) && keyframes.every(Number.isFinite)) ? [keyframes] : keyframes;
    if (!Array.isArray(lists) || !lists.length || !lists.every((own) => Array.isArray(own) && own.every(Number.isInteger))) return null;
    const count = Math.max(steps || 0, ...lists.flat().map((step) => step + 1)), size = Math.max(4, Math.min(16, 900 / count)), row = Math.min(18, Math.max(3, 120 / lists.length));
    const cells = lists.flatMap((own, line) => { const full = new Set(own); return Array.from({ length: count }, (_, step) => element("rect", { x: step * size, y: line * row, width: size - 1, height: row - 1, fill: full.has(step) ? SIDES[0] : "var(--edge)" }, `step ${step}: ${full.has(step) ? "computed" : "reused"}`)); });
    return [make("h4", {}, `Reuse schedule over ${count} steps: dark is computed`), svg(count * size, lists.length * row, `Reuse over ${count} steps, ${lists[0].length} of them computed${lists.length > 1 ? " in the first cut" : ""}`, ...cells)];
  };

  const series = (name, lines) => {
    const width = 520, height = 110, all = lines.flatMap(([, own]) => own).filter(Number.isFinite);
    if (!all.length) return null;
    const low = Math.min(...all), high = Math.max(...all), count = Math.max(...lines.map(([, own]) => own.length));
    const at = (value, place) => `${(4 + (place / Math.max(1, count - 1)) * (width - 8)).toFixed(1)} ${(height - 4 - ((value - low) / (high - low || 1)) * (height - 8)).toFixed(1)}`;
    const drawn = lines.map(([own, values], place) => element("path", { d: values.map((value, index) => (Number.isFinite(value) ? `${index && Number.isFinite(values[index - 1]) ? "L" : "M"}${at(value, index)}` : "")).join(""), fill: "none", "stroke-width": 1.8, stroke: `hsl(${(place * 137) % 360} 60% 50%)` }, own));
    const keys = lines.length > 1 ? make("p", { class: "small soft" }, ...lines.map(([own], place) => make("span", { style: `margin-right:12px` }, make("span", { style: `color:hsl(${(place * 137) % 360} 60% 50%)`, "aria-hidden": "true" }, "━ "), own))) : null;
    return [make("h4", {}, `${name}: ${low.toPrecision(3)} to ${high.toPrecision(3)} over ${count} places`), svg(width, height, `${name}, from ${low.toPrecision(3)} to ${high.toPrecision(3)}`, ...drawn), keys];
  };

  /* Every drawing that a proof holds: bits, intervals, schedule, and any list of numbers along steps or training. */
  const ofProof = (proof, steps) => {
    const found = [];
    const visit = (value, name, depth) => {
      if (depth > 4 || found.length > MOST_SERIES) return;
      if (numbers(value)) { if (!/keyframes/.test(name)) found.push(series(name, [[name, value]])); return; }
      if (Array.isArray(value)) {
        if (value.length > 2 && value.every(isMap)) {
          const keys = Object.keys(value[0]).filter((key) => value.every((own) => typeof own[key] === "number" || own[key] === null));
          for (const key of keys.slice(0, 12)) found.push(series(`${name}: ${key}`, [[key, value.map((own) => own[key])]]));
        }
        return;
      }
      if (!isMap(value)) return;
      const lists = Object.entries(value).filter(([, own]) => numbers(own));
      const rest = Object.entries(value).filter(([key]) => !/^layers$|keyframes/.test(key));
      if (lists.length > 1 && lists.length <= 12 && depth > 0) { for (const [key, own] of lists) found.push(series(`${name}: ${key}`, [[key, own]])); return; }
      for (const [key, own] of rest) visit(own, name ? `${name}: ${key}` : key, depth + 1);
    };
    if (!isMap(proof)) return [];
    if (isMap(proof.layers)) found.push(bits(proof.layers), intervals(proof.layers));
    if (proof.keyframes) found.push(schedule(proof.keyframes, steps));
    visit(proof, "", 0);
    return found.filter(Boolean).flat().filter(Boolean);
  };
  parediff.drawings = { ofProof, schedule, bitsOf };
}
