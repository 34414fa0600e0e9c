"use strict";

/* Numbers as a reader wants them: three digits, an SI prefix where the unit takes one, an error with two digits. */
{
  const PREFIXES = { "-9": "n", "-6": "µ", "-3": "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E" };
  const NEVER = new Set(["", "×", "%", "dB", "bit", "bits"]);

  const significant = (value) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size < 1e-4 || size >= 1e6) return value.toPrecision(3).replace(/\.?0+(e|$)/, "$1");
    return value.toFixed(Math.max(0, Math.min(20, 2 - Math.floor(Math.log10(size)))));
  };

  /* {scale, symbol}: the prefix that suits the middle of these values. */
  const unitFor = (column, values) => {
    const symbol = column?.symbol ?? "";
    if (NEVER.has(symbol)) return { scale: 1, symbol };
    const sizes = Float64Array.from(values, Math.abs).filter((value) => value > 0 && Number.isFinite(value)).sort();
    if (!sizes.length) return { scale: 1, symbol };
    const exponent = Math.min(18, Math.max(-9, 3 * Math.floor(Math.log10(sizes[sizes.length >> 1]) / 3)));
    return { scale: 10 ** exponent, symbol: PREFIXES[exponent] + symbol };
  };

  const withError = (value, error, scale = 1) => {
    const shown = value / scale, spread = (error || 0) / scale;
    if (!spread || Math.abs(shown) < spread / 10 || spread <= 1e-4 || spread >= 1e6)
      return significant(shown) + (spread ? ` ± ${significant(spread)}` : "");
    const places = Math.max(0, 1 - Math.floor(Math.log10(spread)));
    return `${shown.toFixed(places)} ± ${spread.toFixed(places)}`;
  };

  const plain = (value) => {
    if (value === null || value === undefined) return "";
    return typeof value === "number" && !Number.isInteger(value) ? significant(value) : String(value);
  };
  const duration = (seconds) => seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
  const head = (column) => column.title + (column.better === "lower" ? " ↓" : column.better === "higher" ? " ↑" : "");
  const titleOf = (column, unit) => {
    const meaning = column.meaning || column.title;
    return unit.symbol ? `${meaning} (${unit.symbol})` : meaning;
  };
  parediff.format = { significant, unitFor, withError, plain, duration, head, titleOf };
}
