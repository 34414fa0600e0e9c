"use strict";

/* How ways of sampling differ in a number: over pairs of equal seeds or seed blocks, else with independent errors. The mathematics of results/contrast.py. */
{
  const total = (values) => values.reduce((sum, value) => sum + value, 0);

  /* {value, error, pairs} of a weighted sum; terms are [weight, runs that differ in seeds only]. */
  const contrast = (key, terms) => {
    const values = parediff.store.numbers(key);
    return overSeeds(values, terms) ?? overBlocks(key, values, terms) ?? independent(key, values, terms);
  };

  function overSeeds(values, terms) {
    if (terms.some(([, runs]) => runs.length < 2)) return null;
    const own = terms.map(([weight, runs]) => [weight, bySeed(values, runs)]), [[, first], ...others] = own;
    const common = [...first.keys()].filter((seed) => others.every(([, found]) => found.has(seed)));
    if (common.length < 2) return null;
    const sums = common.map((seed) => total(own.map(([weight, found]) => weight * found.get(seed)))), mean = total(sums) / sums.length;
    return { value: mean, error: Math.sqrt(total(sums.map((sum) => (sum - mean) ** 2)) / (sums.length - 1) / sums.length), pairs: sums.length };
  }
  function bySeed(values, runs) {
    const { store } = parediff, images = store.numbers("first_seed"), others = store.numbers("seed");
    return new Map(runs.map((run) => [`${images[run]} ${others[run]}`, values[run]]));
  }

  /* Single runs of the same images in as many blocks, measured alike: the jackknife of their sum. */
  function overBlocks(key, values, terms) {
    if (terms.some(([, runs]) => runs.length !== 1)) return null;
    const moved = terms.map(([, [run]]) => leftOut(key, run)), count = moved[0]?.length ?? 0;
    if (count < 2 || moved.some((own) => own?.length !== count) || new Set(terms.map(([, [run]]) => images(run))).size > 1) return null;
    const without = Array.from({ length: count }, (_, block) => total(terms.map(([weight], place) => weight * moved[place][block])));
    const mean = total(without) / count;
    return { value: total(terms.map(([weight, [run]]) => weight * values[run])), error: Math.sqrt((count - 1) / count * total(without.map((own) => (own - mean) ** 2))), pairs: count };
  }
  const images = (run) => ["protocol", "first_seed", "count"].map((key) => parediff.store.text(key, run)).join();

  /* How much the number moves without each seed block in turn; null where that is not known. */
  function leftOut(key, run) {
    const { store } = parediff, [section, ...name] = key.split("."), column = `_left_out.${name.join(".")}`;
    if (!["quality", "fidelity", "difference"].includes(section)) return null;
    const { values, codes } = store.texts(column), known = store.cached(`f ${column}`, () => new Map());
    if (codes[run] < 0) return null;
    if (!known.has(codes[run])) known.set(codes[run], new Float32Array(Uint8Array.from(atob(values[codes[run]]), (letter) => letter.charCodeAt(0)).buffer));
    return known.get(codes[run]);
  }

  function independent(key, values, terms) {
    const { store } = parediff, column = store.columns.get(key)?.error, errors = column ? store.numbers(column) : null;
    const own = terms.map(([weight, runs]) => [weight, ...parediff.fronts.meanOf(runs, values, errors)]);
    const known = own.every(([, , error]) => error !== null);
    return { value: total(own.map(([weight, mean]) => weight * mean)), error: known ? Math.hypot(...own.map(([weight, , error]) => weight * error)) : null, pairs: 0 };
  }
  parediff.contrast = contrast;
}
