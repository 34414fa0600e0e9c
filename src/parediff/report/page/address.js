"use strict";

/* The view, and the view in the address: whoever opens the link sees the same. */
{
  const LISTS = ["columns", "selected", "hidden"], TEXTS = ["x", "y", "protocol", "overlay", "published", "search", "group", "run"], FLAGS = ["logX", "logY"];
  const empty = () => ({
    x: null, y: null, protocol: null, overlay: "", published: "", search: "", group: "", run: null, logX: null, logY: null, compare: false,
    columns: null, selected: [], hidden: [], sort: [], filters: Object.create(null), ranges: Object.create(null), zoom: null,
  });
  const list = (values) => values.map(encodeURIComponent).join(",");
  const unlist = (text) => (text ? text.split(",").map(decode) : []);
  function decode(text) { try { return decodeURIComponent(text); } catch { return text; } }
  const finite = (values, count) => (values.length === count && values.every(Number.isFinite) ? values : null);

  const write = (state) => {
    const told = new URLSearchParams();
    for (const key of TEXTS) if (state[key]) told.set(key, state[key]);
    for (const key of FLAGS) if (state[key] !== null) told.set(key, state[key] ? "1" : "0");
    for (const key of LISTS) if (state[key]?.length) told.set(key, list(state[key]));
    if (state.compare) told.set("compare", "1");
    if (state.sort.length) told.set("sort", list(state.sort.map(({ key, ascending }) => (ascending ? "" : "-") + key)));
    for (const [key, values] of Object.entries(state.filters)) if (values.length) told.set(`is.${key}`, list(values));
    for (const [key, values] of Object.entries(state.ranges)) told.set(`in.${key}`, values.join("~"));
    if (state.zoom) told.set("zoom", state.zoom.join("~"));
    return `#${told}`;
  };

  const read = (hash) => {
    const state = empty(), told = new URLSearchParams(hash.replace(/^#/, ""));
    for (const [key, value] of told) {
      if (TEXTS.includes(key)) state[key] = value;
      else if (FLAGS.includes(key)) state[key] = value === "1";
      else if (LISTS.includes(key)) state[key] = unlist(value);
      else if (key === "compare") state.compare = value === "1";
      else if (key === "sort") state.sort = unlist(value).map((entry) => ({ key: entry.replace(/^-/, ""), ascending: !entry.startsWith("-") }));
      else if (key.startsWith("is.")) state.filters[key.slice(3)] = unlist(value);
      else if (key.startsWith("in.")) { const ends = finite(value.split("~").map(Number), 2); if (ends) state.ranges[key.slice(3)] = ends; }
      else if (key === "zoom") state.zoom = finite(value.split("~").map(Number), 4);
    }
    return state;
  };
  parediff.address = { read, write, empty };
}
