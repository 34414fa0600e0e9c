"use strict";

/* The page: one state, kept in the address; whatever changes it goes through go() and is drawn anew. */
{
  const { make, at, format, store } = parediff;
  const POLL_MS = 2000, MOST_SELECTED = 6, OVERLAYS = ["study", "commit", "methods", "bits", "sampler.name", "model", "protocol"], MOST_FRONTS = 8, MOST_KEYS = 40;
  parediff.state = parediff.address.read(location.hash);
  parediff.shown = [];

  parediff.go = (change, options = {}) => {
    Object.assign(parediff.state, "x" in change || "y" in change || "protocol" in change ? { zoom: null } : {}, change);
    const hash = parediff.address.write(parediff.state);
    try { history.replaceState(null, "", hash); } catch { location.hash = hash; }
    render(options);
  };
  parediff.isSelected = (run) => parediff.state.selected.includes(store.text("id", run));
  parediff.open = (run) => { parediff.go({ run: store.text("id", run) }); const host = at("details"); host.scrollIntoView({ block: "start" }); host.focus({ preventScroll: true }); };
  parediff.toggle = (run) => {
    const id = store.text("id", run), { selected } = parediff.state;
    if (!selected.includes(id) && selected.length >= MOST_SELECTED) { at("table-told").textContent = `${MOST_SELECTED} runs are compared at most; unselect one first.`; parediff.table.repaint(); return; }
    parediff.go({ selected: selected.includes(id) ? selected.filter((own) => own !== id) : [...selected, id] });
  };
  parediff.pick = (point, select) => (select ? parediff.toggle(point.runs[0]) : parediff.open(point.runs[0]));
  parediff.labelOf = (point) => {
    const label = store.labels[point.runs[0]];
    if (!point.methods && !Number.isNaN(point.steps)) return `${point.steps} steps`;
    return point.runs.length > 1 ? label.replace(/ · seed [^·]*$/, "") : label;
  };

  /* Fills a list of choices without losing what is chosen. */
  const options = (id, entries, chosen) => {
    const list = at(id), told = JSON.stringify(entries);
    if (list.dataset.told !== told) {
      list.replaceChildren(...entries.map(([value, text]) => make("option", { value }, text)));
      list.dataset.told = told;
    }
    list.value = chosen ?? "";
  };
  const head = (key) => { const own = store.columns.get(key); return `${own.title}${own.better === "lower" ? " ↓" : own.better === "higher" ? " ↑" : ""}`; };

  /* Axes that some run has a number for; absolute seconds last, as they mislead between processes. */
  const axisKeys = () => {
    const own = (...sections) => store.keys(...sections).filter((key) => store.has(key));
    const worth = own("quality", "fidelity"), costs = own("cost"), rank = (key) => (key === "cost.latency_s" ? 1 : 0);
    const seconds = own("ratio").filter((key) => key === "ratio.latency_s");
    return { worth, costs: [...seconds, ...costs].sort((a, b) => rank(a) - rank(b)), rest: [...own("difference"), ...own("ratio").filter((key) => !seconds.includes(key)), ...own("seconds"), ...store.keys("run", "config").filter((key) => store.columns.get(key).kind === "number" && store.varies(key))] };
  };

  /* The axis that all runs' study lays out, in full or without its section. */
  const laidOut = (key, all) => {
    const asked = store.has(key) && !store.varies(key) ? store.text(key, 0) : null;
    return all.find((own) => own === asked || own.slice(own.indexOf(".") + 1) === asked);
  };

  function settle() {
    const { state } = parediff, { worth, costs, rest } = axisKeys(), all = [...worth, ...costs, ...rest], [firstX, firstY] = parediff.told.axes ?? ["front.x", "front.y"].map((key) => laidOut(key, all));
    const known = (key) => all.includes(key);
    if (!known(state.x)) state.x = known(firstX) ? firstX : known("cost.bops") ? "cost.bops" : costs[0] ?? all[0] ?? null;
    if (!known(state.y)) state.y = known(firstY) ? firstY : worth[0] ?? all.find((key) => key !== state.x) ?? null;
    options("axis-y", [...worth, ...costs, ...rest].map((key) => [key, head(key)]), state.y);
    options("axis-x", [...costs, ...worth, ...rest].map((key) => [key, head(key)]), state.x);
    const counts = protocols();
    if (state.protocol === null || (state.protocol !== "all" && !counts.some(([name]) => name === state.protocol))) state.protocol = counts[0]?.[0] ?? "all";
    options("protocol", [...counts.map(([name, count]) => [name, `${name || "(none)"} (${count})`]), ...(counts.length > 1 ? [["all", "all: a front for each"]] : [])], state.protocol);
    const groups = [...OVERLAYS.filter((key) => store.has(key) && store.varies(key)), ...store.keys("config").filter((key) => store.varies(key))];
    options("overlay", [["", "protocol alone"], ...groups.map((key) => [key, store.columns.get(key).title])], state.overlay);
    options("group", [["", "nothing"], ...groups.map((key) => [key, store.columns.get(key).title])], state.group);
    const keys = [["", "as found"], ["label", "run"], ["_front", "on the front"], ["_gain", "gain"], ...parediff.table.keys().filter((key) => store.columns.has(key)).map((key) => [key, store.columns.get(key).title])];
    const sorts = keys.flatMap(([key, text]) => (key ? [[key, `${text} ↑`], [`-${key}`, `${text} ↓`]] : [[key, text]]));
    const chosen = state.sort.map(({ key, ascending }) => (ascending ? "" : "-") + key);
    options("sort-key", sorts, chosen[0]);
    options("sort-second", sorts, chosen[1]);
    const sources = [...new Set(parediff.told.published.map((own) => `${own.metric} · ${own.model ?? own.study}`))].filter((name) => state.y?.split(".")[1] === name.split(" · ")[0]);
    options("published", [["", sources.length ? "hidden" : "none for this axis"], ...sources.map((name) => [name, name])], sources.includes(state.published) ? state.published : "");
    at("published").parentElement.hidden = !parediff.told.published.length;
  }

  /* [protocol, finished runs], the largest first. */
  function protocols() {
    const { values, codes } = store.texts("protocol"), status = store.texts("status"), finished = status.values.indexOf("finished"), counts = new Array(values.length).fill(0);
    for (let run = 0; run < codes.length; run++) if (codes[run] >= 0 && status.codes[run] === finished) counts[codes[run]] += 1;
    return values.map((name, code) => [name, counts[code]]).filter(([, count]) => count).sort((a, b) => b[1] - a[1]);
  }

  const render = ({ keepRanges = false } = {}) => {
    const start = performance.now(), { state } = parediff;
    settle();
    const keep = parediff.filters.passing();
    parediff.shown = [];
    for (let run = 0; run < keep.length; run++) if (keep[run]) parediff.shown.push(run);
    const fronts = made();
    const columnX = store.columns.get(state.x), columnY = store.columns.get(state.y);
    if (columnX && columnY) {
      const published = parediff.told.published.filter((own) => state.published && `${own.metric} · ${own.model ?? own.study}` === state.published);
      const scene = parediff.chart.sceneOf(fronts, columnX, columnY, state, published);
      titles(scene);
      parediff.chart.show(at("chart"), scene);
      key(scene);
      at("chart-summary").replaceChildren(...summary(scene));
    } else at("chart").hidden = true;
    parediff.table.show(at("table"), parediff.shown, fronts);
    controls(fronts);
    parediff.filters.drawChoices();
    if (!keepRanges) parediff.filters.drawRanges();
    parediff.comparison.show(at("compare"));
    parediff.runDetails.show(at("details"));
    parediff.lastRender = performance.now() - start;
  };

  function made() {
    const { state } = parediff, protocol = store.texts("protocol"), wanted = protocol.values.indexOf(state.protocol);
    if (!state.x || !state.y) return [];
    const hidden = new Set(state.hidden), methods = store.texts("methods"), hides = methods.values.map((name) => hidden.has(name || "uncompressed"));
    const runs = parediff.shown.filter((run) => (state.protocol === "all" || protocol.codes[run] === wanted) && !(methods.codes[run] >= 0 ? hides[methods.codes[run]] : hidden.has("uncompressed")));
    const overlay = state.overlay ? store.texts(state.overlay) : null;
    const several = state.protocol === "all", width = overlay ? overlay.values.length + 1 : 1;
    const groupOf = (run) => (several ? protocol.codes[run] * width : 0) + (overlay ? overlay.codes[run] + 1 : 0);
    const points = parediff.fronts.points(runs, state.x, state.y, groupOf);
    const fronts = parediff.fronts.build(points, store.columns.get(state.x), store.columns.get(state.y));
    for (const front of fronts) {
      const own = several && `protocol ${protocol.values[Math.floor(front.group / width)] || "(none)"}`;
      front.name = [own, overlay && (overlay.values[(front.group % width) - 1] || "(none)")].filter(Boolean).join(", ");
    }
    return fronts;
  }

  function titles({ columnX, columnY, unitX, unitY, logX, logY, canLogX, canLogY }) {
    const way = (column) => (column.better === "lower" ? ", ↓ lower is better" : column.better === "higher" ? ", ↑ higher is better" : "");
    at("chart-title").textContent = `${columnY.title} against ${columnX.title}`;
    at("axis-y-title").textContent = `${format.titleOf(columnY, unitY)} [${columnY.key}]${way(columnY)}`;
    at("axis-x-title").textContent = `${format.titleOf(columnX, unitX)} [${columnX.key}]${columnX.better === "lower" ? ", ← cheaper" : way(columnX)}`;
    for (const [id, on, can] of [["log-x", logX, canLogX], ["log-y", logY, canLogY]]) { at(id).checked = on; at(id).disabled = !can; }
    at("zoom-out").hidden = !parediff.state.zoom;
  }

  /* A button for each combination of methods: its colour and marker, and whether it is drawn. */
  function key({ all, fronts }) {
    const { state } = parediff, counts = new Map();
    for (const name of state.hidden) counts.set(name, 0);
    for (const point of all) counts.set(point.methods || "uncompressed", (counts.get(point.methods || "uncompressed") ?? 0) + 1);
    const shown = [...counts].sort((a, b) => b[1] - a[1]).slice(0, MOST_KEYS), several = fronts.length > 1;
    const lines = several ? fronts.slice(0, MOST_FRONTS).map((front, place) => make("span", { class: "small" }, make("span", { style: `color:${parediff.chart.frontColour(place)}`, "aria-hidden": "true" }, "━━ "), `front of ${front.name}`)) : [];
    at("key").replaceChildren(...lines, ...shown.map(([name]) => {
      const hidden = state.hidden.includes(name);
      return make("button", { "aria-pressed": String(!hidden), title: hidden ? "draw" : "leave out", onclick: () => parediff.go({ hidden: hidden ? state.hidden.filter((own) => own !== name) : [...state.hidden, name] }) }, glyph(name), name === "uncompressed" ? "uncompressed, fewer steps: the line to beat" : name);
    }));
  }
  function glyph(name) {
    const [colour, shape] = parediff.told.styles[name] ?? [parediff.colour("--quiet"), "circle"], pen = new parediff.pens.SvgPen(16, 16, "none");
    parediff.pens.mark(pen, shape, 8, 8, 5);
    pen.fillStyle = colour; pen.fill();
    const holder = make("span", { "aria-hidden": "true", style: "display:inline-flex" });
    holder.innerHTML = `<svg width="16" height="16" viewBox="0 0 16 16">${pen.parts.slice(1).join("")}</svg>`;
    return holder;
  }

  /* What the chart shows, in words: for those who do not see it, and for everybody the numbers behind it. */
  function summary(scene) {
    const { fronts, unitX, unitY, columnX, columnY, all } = scene, runs = all.reduce((sum, point) => sum + point.runs.length, 0);
    if (!all.length) return [make("p", {}, "No run that is shown has a number on both axes.")];
    const on = all.filter((point) => point.onFront).length, several = fronts.length > 1;
    const parts = [make("p", {}, make("strong", {}, `${on} of ${all.length} points are on ${several ? `${fronts.length} fronts` : "the front"}`), ` (${runs} runs; runs that differ in seeds only are one point; ± is one standard error).`)];
    const own = fronts.slice(0, MOST_FRONTS).map((front) => {
      const [x, y] = front.reference;
      const volume = `hypervolume ${format.significant(front.volume / unitX.scale / unitY.scale)} ${unitX.symbol || columnX.title}×${unitY.symbol || columnY.title} (${Math.round(100 * front.share)}% of its box), reference point (${`${format.significant(x / unitX.scale)} ${unitX.symbol}`.trim()}, ${`${format.significant(y / unitY.scale)} ${unitY.symbol}`.trim()}): the worst of each axis, a tenth worse`;
      const gains = front.points.filter((point) => point.gain?.verdict === "better").sort((a, b) => b.gain.value - a.gain.value), best = gains[0];
      const told = best ? `; largest gain over fewer steps beyond two standard errors: ${parediff.labelOf(best)}, ${best.gain.bound}+${format.withError(best.gain.value, best.gain.error, unitY.scale)}` : front.lines.length ? "; no point beats fewer steps beyond two standard errors" : "";
      const rivals = new Set(front.points.filter((point) => point.gain?.rival && point.onFront).map((point) => point.gain.rival));
      const rival = rivals.size ? `; at the cost of some of them ${[...rivals].join(" and ")} with fewer steps beats both the point and its own sampler's line` : "";
      return `${several ? `${front.name}: ` : ""}${volume}${told}${rival}.`;
    });
    if (several) own.push("Fronts of different protocols are not comparable; of one protocol they are.");
    parts.push(make("ul", {}, own.map((line) => make("li", {}, line)), fronts[0].points.filter((point) => point.onFront).slice(0, 8).map((point) =>
      make("li", {}, `${several ? "first front" : "front"}: ${parediff.labelOf(point)}: ${format.withError(point.x, point.xError, unitX.scale)} ${unitX.symbol || columnX.title}, ${format.withError(point.y, point.yError, unitY.scale)} ${unitY.symbol || columnY.title}`))));
    if (all.length > 400) parts.push(make("p", {}, "Of so many points only those on the front show their error; beyond 2,000, dominated points are small squares in the colour of their methods."));
    if (columnX.key === "cost.latency_s" || columnY.key === "cost.latency_s") parts.push(make("p", { class: "failed" }, "Seconds of different processes are not comparable: “latency_s ÷ baseline” sets each beside the baseline of its own process."));
    return parts;
  }

  function controls(fronts) {
    const { state, shown, told } = parediff, on = new Set(fronts.flatMap((front) => front.points.filter((point) => point.onFront).flatMap((point) => point.runs)));
    const narrowed = parediff.filters.told();
    at("filters-told").textContent = narrowed ? `${shown.length} of ${store.count} runs: ${narrowed}` : `all ${store.count} runs`;
    at("table-told").textContent = `${shown.length} of ${store.count} runs, ${on.size} of them on the front`;
    const count = parediff.comparison.runsOf().length;
    at("compare-open").textContent = `Compare ${count} run${count === 1 ? "" : "s"}`;
    at("compare-open").disabled = count < 2;
    at("unselect").disabled = !state.selected.length;
    if (document.activeElement !== at("search")) at("search").value = state.search;
    at("title").textContent = told.title || "no runs yet";
    const failed = store.has("status") ? Array.from(store.texts("status").codes).filter((code) => store.texts("status").values[code] === "failed").length : 0;
    const models = store.has("model") ? store.texts("model").values.filter(Boolean) : [];
    at("counts").replaceChildren(`${told.total.toLocaleString("en")} run${told.total === 1 ? "" : "s"}${models.length ? ` of ${models.slice(0, 3).join(", ")}${models.length > 3 ? " …" : ""}` : ""}`, ...(failed ? [", ", make("button", { class: "failed", onclick: () => parediff.go({ filters: Object.assign(Object.create(null), { status: ["failed"] }), columns: [...new Set(["error", ...parediff.table.keys()])] }) }, `${failed} failed`)] : []));
  }

  function notices() {
    const { told } = parediff, parts = [];
    if (told.thinned) parts.push(make("p", { class: "notice", role: "note" }, told.thinned));
    if (told.warnings.length) parts.push(make("details", { class: "notice bad", open: told.warnings.length <= 5 }, make("summary", {}, `${told.warnings.length} warning${told.warnings.length > 1 ? "s" : ""}: what could not be read or is not whole`), make("ul", {}, told.warnings.map((line) => make("li", {}, line)))));
    at("notices").replaceChildren(...parts);
    at("studies").hidden = !told.studies.some((study) => study.finished + study.failed < study.total);
    at("studies").replaceChildren(...told.studies.filter((study) => study.finished + study.failed < study.total).map(studyCard));
    at("footer").textContent = `parediff ${told.version}, ${told.made}. ± is one standard error over seed blocks or seeds.`;
  }
  const studyCard = (study) => make("div", { class: "card" },
    make("p", {}, make("strong", {}, study.name), ` ${study.finished} of ${study.total} finished${study.failed ? `, ${study.failed} failed` : ""}, ${study.waiting} waiting `, make("progress", { max: study.total, value: study.finished + study.failed, "aria-label": `progress of ${study.name}` }), study.left_s ? ` about ${format.duration(study.left_s)} left` : ""),
    ...study.running.slice(0, 12).map((run) => make("p", { class: "small soft" }, `${run.label}: ${run.stage}${run.total ? ` ${run.done}/${run.total}` : ""}`)));

  function columnsMenu() {
    const chosen = new Set(parediff.table.keys()), wanted = at("columns-search").value.toLowerCase();
    const all = [...store.columns.values()].filter((column) => store.has(column.key) && column.section !== "stderr" && `${column.key} ${column.meaning}`.toLowerCase().includes(wanted));
    const order = (column) => (column.section === "config" && !store.varies(column.key) ? 1 : 0);
    at("columns-list").replaceChildren(...all.sort((a, b) => order(a) - order(b)).slice(0, 250).map((column) => {
      const box = make("input", { type: "checkbox", onchange: () => { if (box.checked) chosen.add(column.key); else chosen.delete(column.key); parediff.go({ columns: [...chosen] }); } });
      box.checked = chosen.has(column.key);
      return make("label", {}, box, make("span", {}, column.section === "run" ? column.title : column.key), make("span", { class: "soft" }, column.section === "config" && !store.varies(column.key) ? "same in all" : ""));
    }));
  }

  /* The box beside the pointer: what a point is, and its samples, fetched when it is looked at. */
  parediff.tip = {
    hide() { at("tip").hidden = true; },
    show(point, x, y, { columnX, columnY, unitX, unitY }) {
      const tip = at("tip"), run = point.runs[0], gain = point.gain;
      if (tip.dataset.run !== String(run) || tip.hidden) {
        const lines = [make("b", {}, parediff.labelOf(point)), `${columnY.title}: ${format.withError(point.y, point.yError, unitY.scale)} ${unitY.symbol}`, make("br"), `${columnX.title}: ${format.withError(point.x, point.xError, unitX.scale)} ${unitX.symbol}`];
        if (point.onFront) lines.push(make("br"), make("span", { class: "star" }, "on the front"));
        if (gain) lines.push(make("br"), `against fewer steps: ${gain.bound}${gain.value >= 0 ? "+" : "−"}${format.withError(Math.abs(gain.value), gain.error, unitY.scale)} (${gain.verdict})`);
        if (gain?.rival) lines.push(make("br"), `${gain.rival} with fewer steps beats both`);
        lines.push(make("br"), make("span", { class: "soft" }, `${point.runs.length > 1 ? `${point.runs.length} runs, ` : ""}${store.text("id", run)} · ${store.text("study", run)}`));
        if (store.text("_picture", run)) lines.push(make("img", { src: parediff.pictureOf(store.text("_file", run)), alt: "" }));
        tip.replaceChildren(...lines);
        tip.dataset.run = run;
      }
      tip.hidden = false;
      const box = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(6, Math.min(x + 16, innerWidth - box.width - 8))}px`;
      tip.style.top = `${Math.max(6, y + 18 + box.height > innerHeight ? y - box.height - 14 : y + 18)}px`;
    },
  };

  function theme() {
    let chosen = "";
    try { chosen = localStorage.getItem("parediff-theme") ?? ""; } catch { /* a page from disk may have no storage */ }
    at("theme").value = chosen;
    const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  }

  function listen() {
    at("axis-x").onchange = (event) => parediff.go({ x: event.target.value, logX: null });
    at("axis-y").onchange = (event) => parediff.go({ y: event.target.value, logY: null });
    at("protocol").onchange = (event) => parediff.go({ protocol: event.target.value });
    at("overlay").onchange = (event) => parediff.go({ overlay: event.target.value });
    at("published").onchange = (event) => parediff.go({ published: event.target.value });
    at("group").onchange = (event) => parediff.go({ group: event.target.value });
    at("log-x").onchange = (event) => parediff.go({ logX: event.target.checked, zoom: null });
    at("log-y").onchange = (event) => parediff.go({ logY: event.target.checked, zoom: null });
    at("zoom-out").onclick = () => parediff.go({ zoom: null });
    const sorted = () => parediff.go({ sort: ["sort-key", "sort-second"].map((id) => at(id).value).filter(Boolean).filter((value, place, all) => all.indexOf(value) === place).map((value) => ({ key: value.replace(/^-/, ""), ascending: !value.startsWith("-") })) });
    at("sort-key").onchange = at("sort-second").onchange = sorted;
    let waiting = null;
    at("search").oninput = () => { clearTimeout(waiting); waiting = setTimeout(() => parediff.go({ search: at("search").value }), 120); };
    at("clear").onclick = () => { at("search").value = ""; parediff.go({ filters: Object.create(null), ranges: Object.create(null), search: "" }); };
    at("compare-open").onclick = () => { parediff.go({ compare: true }); at("compare").scrollIntoView({ block: "start" }); at("compare").focus({ preventScroll: true }); };
    at("unselect").onclick = () => parediff.go({ selected: [], compare: false });
    at("columns-menu").ontoggle = () => { if (at("columns-menu").open) columnsMenu(); };
    at("columns-search").oninput = columnsMenu;
    at("exports").onclick = (event) => { const kind = event.target.dataset?.export; if (kind) { parediff.exports[kind](); at("exports").open = false; } };
    at("copy-link").onclick = async () => {
      try { await navigator.clipboard.writeText(location.href); at("copy-link").textContent = "Copied"; }
      catch { at("copy-link").textContent = "It is in the address bar"; }
      setTimeout(() => { at("copy-link").textContent = "Copy link to this view"; }, 2500);
    };
    at("theme").onchange = () => { try { localStorage.setItem("parediff-theme", at("theme").value); } catch { /* kept for this visit only */ } document.documentElement.dataset.theme = at("theme").value || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"); render(); };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { theme(); render(); });
    window.addEventListener("hashchange", () => { parediff.state = parediff.address.read(location.hash); parediff.comparison.again(); render(); });
    document.querySelector("[data-skip]").onclick = (event) => { event.preventDefault(); at("chart-card").focus(); };
    document.addEventListener("click", (event) => { for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false; });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      for (const menu of document.querySelectorAll("details.menu[open]")) { menu.open = false; menu.querySelector("summary").focus(); }
    });
  }

  /* A page that is served follows what is on disk: the manifest is asked for, and only what is new is loaded. */
  async function follow() {
    let tag = null;
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      if (document.hidden) continue;
      try {
        const answer = await fetch("data/manifest.json", { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
        at("live").classList.remove("lost");
        at("live").textContent = "following";
        if (answer.status === 304) continue;
        if (!answer.ok) throw new Error(String(answer.status));
        tag = answer.headers.get("ETag");
        const before = parediff.told, next = await answer.json();
        parediff.told = next;
        try { await parediff.loadRows(); } catch (error) { parediff.told = before; throw error; }
        notices();
        const same = before.rows.join() === next.rows.join() && before.labels === next.labels;
        if (!same) { store.refresh(); render(); }
      } catch {
        at("live").classList.add("lost");
        at("live").textContent = "the server does not answer";
        tag = null;
      }
    }
  }

  document.addEventListener("DOMContentLoaded", async () => {
    theme();
    if (!parediff.told) { at("counts").textContent = "The page's data could not be loaded: data/manifest.js is missing beside it."; return; }
    try {
      if (parediff.told.mode !== "file") await parediff.loadRows();
    } catch (error) { at("counts").textContent = `The page's data could not be loaded: ${error.message}`; return; }
    store.refresh();
    if (matchMedia("(max-width: 700px)").matches) at("filters-fold").open = false;
    listen();
    notices();
    render();
    parediff.ready = performance.now();
    document.documentElement.dataset.ready = "yes";
    if (parediff.told.mode === "live") { at("live").hidden = false; at("live").textContent = "following"; follow(); }
  });
}
