"use strict";

/* What narrows the runs: choices by value, sliders on numbers, a search. */
{
  const { make, at, format } = parediff;
  const FACETS = ["model", "methods", "bits", "study", "seed", "first_seed", "status", "sampler.name", "sampler.steps", "commit"];
  const SLIDERS = ["cost.bops", "cost.size_bytes", "ratio.latency_s", "cost.nfe"], STEPS = 200, MOST_VALUES = 400;
  let haystack = null;

  /* Runs that pass all filters but, where it is given, the one on this key: what a choice of it would leave. */
  const passing = (except = null) => {
    const { store, state } = parediff, keep = new Uint8Array(store.count).fill(1);
    for (const [key, wanted] of Object.entries(state.filters)) {
      if (!wanted.length || key === except || !store.has(key)) continue;
      const { values, codes } = store.texts(key), good = new Set(wanted), ok = values.map((value) => good.has(value)), none = good.has("");
      for (let run = 0; run < keep.length; run++) if (!(codes[run] < 0 ? none : ok[codes[run]])) keep[run] = 0;
    }
    for (const [key, [low, high]] of Object.entries(state.ranges)) {
      if (!store.has(key)) continue;
      const values = store.numbers(key);
      for (let run = 0; run < keep.length; run++) if (!(values[run] >= low && values[run] <= high)) keep[run] = 0;
    }
    if (state.search.trim()) {
      const words = state.search.toLowerCase().trim().split(/\s+/), texts = searchable();
      for (let run = 0; run < keep.length; run++) if (keep[run] && !words.every((word) => texts[run].includes(word))) keep[run] = 0;
    }
    return keep;
  };

  /* All texts of a run, and its settings as key=value, in lower case; made at the first search. */
  function searchable() {
    const { store } = parediff;
    if (haystack?.of === parediff.told) return haystack.texts;
    const texts = store.labels.map((label) => label.toLowerCase());
    for (const key of [...store.keys("run"), ...store.keys("config").filter((own) => store.varies(own)), "_folder"]) {
      const { values, codes } = store.texts(key), short = key.replace(/^config\./, "");
      const lower = values.map((value) => ` ${key.startsWith("config.") ? `${short}=` : ""}${value}`.toLowerCase());
      for (let run = 0; run < texts.length; run++) if (codes[run] >= 0) texts[run] += lower[codes[run]];
    }
    haystack = { of: parediff.told, texts };
    return texts;
  }

  const facets = () => {
    const { store, state } = parediff, wanted = new Set(Object.keys(state.filters));
    return [...FACETS.filter((key) => store.has(key) && (store.varies(key) || wanted.has(key))), ...[...wanted].filter((key) => !FACETS.includes(key) && store.has(key))];
  };

  const drawChoices = () => {
    const host = at("choices"), open = host.querySelector("details[open]")?.dataset.key;
    host.replaceChildren(...facets().map((key) => menu(key, key === open)), another());
  };

  function menu(key, open) {
    const { store, state } = parediff, title = store.columns.get(key)?.title ?? key, chosen = state.filters[key] ?? [];
    const own = make("details", { class: "menu", "data-key": key }, make("summary", {}, title + (chosen.length ? `: ${chosen.length === 1 ? chosen[0] || "(none)" : chosen.length}` : "")));
    const pop = make("div", { class: "pop", role: "group", "aria-label": `Show only ${title}` });
    own.append(pop);
    const fill = () => pop.replaceChildren(...options(key));
    own.addEventListener("toggle", () => { if (own.open) fill(); });
    if (open) { fill(); own.open = true; }
    return own;
  }

  function options(key) {
    const { store, state } = parediff, { values, codes } = store.texts(key), counts = new Map(), keep = passing(key);
    for (let run = 0; run < codes.length; run++) if (keep[run]) counts.set(codes[run] < 0 ? "" : values[codes[run]], (counts.get(codes[run] < 0 ? "" : values[codes[run]]) ?? 0) + 1);
    const chosen = new Set(state.filters[key] ?? []), all = new Set([...values, ...(codes.includes(-1) ? [""] : []), ...chosen]);
    const sorted = [...all].sort(new Intl.Collator(undefined, { numeric: true }).compare), shown = sorted.slice(0, MOST_VALUES);
    const boxes = shown.map((value) => {
      const box = make("input", { type: "checkbox", onchange: () => {
        if (box.checked) chosen.add(value); else chosen.delete(value);
        const filters = Object.assign(Object.create(null), state.filters, { [key]: [...chosen] });
        if (!chosen.size) delete filters[key];
        parediff.go({ filters });
      } });
      box.checked = chosen.has(value);
      return make("label", {}, box, make("span", {}, value || "(none)"), make("span", { class: "soft" }, String(counts.get(value) ?? 0)));
    });
    return sorted.length > shown.length ? [...boxes, make("p", { class: "soft small" }, `${sorted.length - shown.length} more values: search for them`)] : boxes;
  }

  /* Any other setting that varies can be filtered by. */
  function another() {
    const { store } = parediff, known = new Set(facets()), keys = store.keys("config").filter((key) => store.varies(key) && !known.has(key));
    const list = make("select", { "aria-label": "Filter by a setting", onchange: () => { if (list.value) addFacet(list.value); } }, make("option", { value: "" }, "by a setting …"), ...keys.map((key) => make("option", { value: key }, key.replace(/^config\./, ""))));
    list.hidden = !keys.length;
    return list;
  }
  function addFacet(key) {
    const own = menu(key, true);
    at("choices").insertBefore(own, at("choices").lastElementChild);
    own.querySelector("summary").focus();
  }

  const drawRanges = () => {
    const { store, state } = parediff, keys = new Set([state.x, state.y, ...SLIDERS, ...Object.keys(state.ranges)]);
    at("ranges").replaceChildren(...[...keys].filter((key) => store.columns.get(key)?.kind === "number" && store.varies(key)).map(slider));
  };

  function slider(key) {
    const { store, state } = parediff, column = store.columns.get(key), known = store.sorted(key);
    if (known.length < 2 || known[0] === known[known.length - 1]) return null;
    const low = known[0], high = known[known.length - 1], log = low > 0 && high / low > 20, unit = format.unitFor(column, known);
    const value = (place) => place <= 0 ? low : place >= STEPS ? high : log ? low * (high / low) ** (place / STEPS) : low + ((high - low) * place) / STEPS;
    const place = (own) => Math.round(STEPS * (log ? Math.log(own / low) / Math.log(high / low) : (own - low) / (high - low)));
    const [from, to] = state.ranges[key] ?? [low, high];
    const told = make("legend", {}), ends = ["least", "most"].map((name, index) => make("input", { type: "range", min: 0, max: STEPS, "aria-label": `${name} ${column.title}`, value: place(Math.min(high, Math.max(low, [from, to][index]))) }));
    const say = () => {
      const [a, b] = ends.map((own) => value(Number(own.value)));
      told.textContent = `${column.title}: ${format.significant(a / unit.scale)} to ${format.significant(b / unit.scale)} ${unit.symbol}`;
      ends[0].setAttribute("aria-valuetext", `${format.significant(a / unit.scale)} ${unit.symbol}`);
      ends[1].setAttribute("aria-valuetext", `${format.significant(b / unit.scale)} ${unit.symbol}`);
      return [a, b];
    };
    const moved = (index) => () => {
      if (Number(ends[0].value) > Number(ends[1].value)) ends[index].value = ends[1 - index].value;
      const [a, b] = say(), ranges = Object.assign(Object.create(null), parediff.state.ranges);
      if (a <= low && b >= high) delete ranges[key];
      else ranges[key] = [a, b].map((own, end) => (own === low || own === high ? own : Number(own.toPrecision(end ? 7 : 7))));
      parediff.go({ ranges }, { keepRanges: true });
    };
    ends.forEach((own, index) => own.addEventListener("input", moved(index)));
    say();
    return make("fieldset", { class: "range", "data-key": key }, told, make("div", { class: "track" }, ...ends));
  }

  const told = () => {
    const { state } = parediff, parts = Object.entries(state.filters).map(([key, values]) => `${parediff.store.columns.get(key)?.title ?? key} = ${values.map((value) => value || "(none)").join(" or ")}`);
    for (const key of Object.keys(state.ranges)) parts.push(`${parediff.store.columns.get(key)?.title ?? key} within limits`);
    if (state.search.trim()) parts.push(`“${state.search.trim()}”`);
    return parts.join("; ");
  };
  parediff.filters = { passing, drawChoices, drawRanges, told, get FACETS() { return FACETS; } };
}
