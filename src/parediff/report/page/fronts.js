"use strict";

/* Points of runs, the front over them, what each gains over merely taking fewer steps. The mathematics of results/front.py. */
{
  const MARGIN = 0.1;
  const sign = (better) => (better === "higher" ? -1 : 1);

  /* Runs of one group that differ in seeds only are one point: the mean, and the standard error between them. */
  const points = (runs, x, y, groupOf) => {
    const { store } = parediff;
    const xs = store.numbers(x), ys = store.numbers(y), alike = store.texts("_point").codes;
    const status = store.texts("status"), finished = status.values.indexOf("finished");
    const errors = store.columns.get(y)?.error, stderr = errors ? store.numbers(errors) : null;
    const groups = new Map(), made = [];
    for (const run of runs) {
      if (status.codes[run] !== finished || Number.isNaN(xs[run]) || Number.isNaN(ys[run])) continue;
      const group = groupOf(run);
      if (!groups.has(group)) groups.set(group, new Map());
      const found = groups.get(group), own = found.get(alike[run]);
      if (own) { own.runs.push(run); continue; }
      made.push({ runs: [run], group });
      found.set(alike[run], made[made.length - 1]);
    }
    const methods = store.texts("methods"), names = samplers(), steps = store.numbers("sampler.steps");
    for (const point of made) {
      const first = point.runs[0];
      [point.x, point.xError] = meanOf(point.runs, xs, null);
      [point.y, point.yError] = meanOf(point.runs, ys, stderr);
      point.methods = methods.codes[first] < 0 ? "" : methods.values[methods.codes[first]];
      point.sampler = names[first];
      point.steps = steps[first];
    }
    return made.sort((a, b) => a.x - b.x || a.y - b.y);
  };

  /* What a line of fewer steps must share: the sampler's name, and the noise that it adds. */
  function samplers() {
    const { store } = parediff;
    return store.cached("samplers", () => {
      const { values, codes } = store.texts("sampler.name"), eta = store.numbers("sampler.eta");
      return Array.from(codes, (code, run) => (values[code] ?? "") + (eta[run] ? ` η=${eta[run]}` : ""));
    });
  }

  function meanOf(runs, values, stderr) {
    if (runs.length === 1) return [values[runs[0]], stderr && !Number.isNaN(stderr[runs[0]]) ? stderr[runs[0]] : null];
    const mean = runs.reduce((sum, run) => sum + values[run], 0) / runs.length;
    const variance = runs.reduce((sum, run) => sum + (values[run] - mean) ** 2, 0) / (runs.length - 1);
    return [mean, Math.sqrt(variance / runs.length)];
  }

  /* Marks point.onFront by a sorted sweep, n log n; equal points are both on it. */
  const sweep = (own, betterX, betterY) => {
    const sx = sign(betterX), sy = sign(betterY);
    let best = Infinity, at = null;
    const ordered = sx > 0 && sy > 0 ? own : [...own].sort((a, b) => sx * (a.x - b.x) || sy * (a.y - b.y)); // they come sorted by x, then y
    for (const point of ordered) {
      const equal = at && at.x === point.x && at.y === point.y;
      point.onFront = equal || sy * point.y < best;
      if (point.onFront && !equal) { best = sy * point.y; at = point; }
    }
  };

  /* The worst of all points on each axis, a tenth of its size beyond. */
  const referenceOf = (own, betterX, betterY) => [["x", sign(betterX)], ["y", sign(betterY)]].map(([axis, s]) => {
    const worst = own.reduce((most, point) => Math.max(most, s * point[axis]), -Infinity);
    return s * (worst + MARGIN * Math.abs(worst));
  });

  const hypervolume = (own, betterX, betterY, [cornerX, cornerY]) => {
    const sx = sign(betterX), sy = sign(betterY), boundX = sx * cornerX, boundY = sy * cornerY;
    const stairs = own.filter((point) => point.onFront).map((point) => [sx * point.x, sy * point.y]).filter(([x, y]) => x < boundX && y < boundY);
    stairs.sort((a, b) => a[0] - b[0]);
    return stairs.reduce((sum, [x, y], index) => sum + ((stairs[index + 1]?.[0] ?? boundX) - x) * (boundY - y), 0);
  };

  const share = (own, betterX, betterY, corner, volume) => {
    const sides = [["x", sign(betterX), 0], ["y", sign(betterY), 1]].map(([axis, s, place]) =>
      Math.max(0, s * corner[place] - own.reduce((least, point) => Math.min(least, s * point[axis]), Infinity)));
    return sides[0] * sides[1] ? volume / (sides[0] * sides[1]) : 0;
  };

  /* The uncompressed model with each sampler at fewer and fewer steps, cheapest first. */
  const linesOf = (own) => {
    const lines = new Map();
    for (const point of own) {
      if (point.methods) continue;
      if (!lines.has(point.sampler)) lines.set(point.sampler, { name: point.sampler, points: [] });
      lines.get(point.sampler).points.push(point);
    }
    return [...lines.values()];
  };

  /* {ends: [[weight, point]], y, bound} of a line at a cost: linear in log x between two points, its end beyond its ends. */
  const lineAt = ({ points: own }, x) => {
    const first = own[0], last = own[own.length - 1], made = (ends, bound) => ({ ends, bound, y: ends.reduce((sum, [weight, point]) => sum + weight * point.y, 0) });
    if (x <= first.x) return made([[1, first]], x === first.x ? "" : "≥ ");
    if (x >= last.x) return made([[1, last]], x === last.x ? "" : "≤ ");
    let low = 0, high = own.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; if (own[middle].x < x) low = middle; else high = middle; }
    const [left, right] = [own[low], own[high]], scale = left.x > 0 ? Math.log : (value) => value;
    const weight = (scale(x) - scale(left.x)) / (scale(right.x) - scale(left.x));
    return made([[1 - weight, left], [weight, right]], "");
  };

  /* How much better than the line of its own sampler at the same cost; which other sampler's line beats both. */
  const gainOf = (point, lines, betterY, keyY) => {
    const line = lines.find((own) => own.name === point.sampler) ?? (lines.length === 1 ? lines[0] : null);
    if (!point.methods || !line) return null;
    const s = sign(betterY), there = lineAt(line, point.x);
    const { value, error, pairs } = parediff.contrast(keyY, [...there.ends.map(([weight, end]) => [s * weight, end.runs]), [-s, point.runs]]);
    let verdict = "unclear";
    if (error !== null && Math.abs(value) > 2 * error) {
      if (value > 0 && there.bound !== "≤ ") verdict = "better";
      if (value < 0 && there.bound !== "≥ ") verdict = "worse";
    }
    let best = Math.min(s * there.y, s * point.y), rival = null;
    for (const other of lines) {
      const own = lineAt(other, point.x);
      if (other !== line && own.bound !== "≥ " && s * own.y < best) [best, rival] = [s * own.y, other.name];
    }
    return { value, error, pairs, bound: there.bound, verdict, rival };
  };

  /* Every front of the points: one for each group, in order of their size. */
  const build = (made, columnX, columnY) => {
    const betterX = columnX.better ?? "lower", betterY = columnY.better ?? "lower", groups = new Map();
    for (const point of made) {
      if (!groups.has(point.group)) groups.set(point.group, []);
      groups.get(point.group).push(point);
    }
    const fronts = [...groups].map(([group, own]) => {
      sweep(own, betterX, betterY);
      const lines = linesOf(own), reference = referenceOf(own, betterX, betterY);
      for (const point of own) point.gain = gainOf(point, lines, betterY, columnY.key);
      const volume = hypervolume(own, betterX, betterY, reference);
      return { group, points: own, lines, reference, volume, share: share(own, betterX, betterY, reference, volume) };
    });
    return fronts.sort((a, b) => b.points.length - a.points.length);
  };
  parediff.fronts = { points, build, lineAt, meanOf };
}
