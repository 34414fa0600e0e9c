"use strict";

/* Two to six runs beside one another: settings that differ, differences with their errors, the same seeds' pictures. */
{
  const { make, format, at } = parediff;
  let shown = null, mode = "side", flicker = null;
  const runsOf = () => parediff.state.selected.map((id) => parediff.store.byId.get(id)).filter((run) => run !== undefined).slice(0, 6);

  const show = (host) => {
    clearInterval(flicker);
    const runs = parediff.state.compare ? runsOf() : [];
    host.hidden = runs.length < 2;
    if (host.hidden) { host.replaceChildren(); shown = null; return; }
    const key = `${runs.join()} ${parediff.told.rows.join()}`;
    if (shown === key) return;
    shown = key;
    const names = runs.map((run) => parediff.store.labels[run]);
    host.replaceChildren(
      make("div", { class: "panel-head" }, make("h2", { id: "compare-title" }, `${runs.length} runs compared`), make("button", { onclick: () => parediff.go({ compare: false }) }, "Close")),
      ...warned(runs), make("h3", {}, "What it costs and what it is worth"), numbersTable(runs, names), make("p", { class: "soft small" }, "Differences are to the first run. ± is one standard error: over pairs of equal seeds, or of equal seed blocks of single runs, where their number is told, else of independent errors, which is too wide for runs that share their seeds."),
      make("h3", {}, "Settings that differ"), settingsTable(runs, names), make("h3", {}, "Samples"), ...pictures(runs, names));
  };

  function warned(runs) {
    const protocols = new Set(runs.map((run) => parediff.store.text("protocol", run)));
    return protocols.size > 1 ? [make("p", { class: "notice bad" }, "These runs were measured under different protocols: their qualities are not comparable.")] : [];
  }

  /* Of two ways of sampling, each with all its seeds. */
  const difference = (key, first, second) => parediff.contrast(key, [[-1, alike(first, key)], [1, alike(second, key)]]);

  /* The runs that differ from this one in seeds only. */
  function alike(run, key) {
    const { store } = parediff, points = store.texts("_point").codes, protocol = store.texts("protocol").codes, values = store.numbers(key), found = [];
    for (let other = 0; other < store.count; other++)
      if (points[other] === points[run] && protocol[other] === protocol[run] && !Number.isNaN(values[other])) found.push(other);
    return found;
  }

  function numbersTable(runs, names) {
    const { store } = parediff, keys = store.keys("quality", "fidelity", "difference", "cost", "ratio", "seconds").filter((key) => runs.some((run) => !Number.isNaN(store.number(key, run))));
    const rows = keys.map((key) => {
      const column = store.columns.get(key), unit = format.unitFor(column, runs.map((run) => store.number(key, run)).filter((value) => !Number.isNaN(value)));
      const cells = runs.map((run, place) => {
        const value = store.number(key, run);
        if (Number.isNaN(value)) return make("td", { class: "number" }, "–");
        const own = format.withError(value, column.error ? store.number(column.error, run) || null : null, unit.scale);
        if (!place || Number.isNaN(store.number(key, runs[0]))) return make("td", { class: "number" }, own);
        const { value: away, error, pairs } = difference(key, runs[0], run), better = column.better && error !== null && Math.abs(away) > 2 * error ? ((away < 0) === (column.better === "lower") ? "better" : "worse") : "soft";
        return make("td", { class: "number" }, own, make("br"), make("span", { class: `small ${better}` }, `${away >= 0 ? "+" : "−"}${format.withError(Math.abs(away), error, unit.scale)}${pairs ? ` (${pairs} pairs)` : ""}`));
      });
      return make("tr", {}, make("th", { scope: "row", title: column.meaning }, `${format.head(column)}${unit.symbol ? `, ${unit.symbol}` : ""}`), ...cells);
    });
    return table(names, rows);
  }

  function settingsTable(runs, names) {
    const { store } = parediff, keys = [...store.keys("run").filter((key) => key !== "id"), ...store.keys("config")].filter((key) => new Set(runs.map((run) => store.text(key, run))).size > 1);
    if (!keys.length) return make("p", { class: "soft" }, "None: they differ in nothing that was asked for.");
    return table(names, keys.map((key) => make("tr", {}, make("th", { scope: "row" }, key.replace(/^config\./, "")), ...runs.map((run) => make("td", { class: store.text(key, run) === store.text(key, runs[0]) ? "" : "different" }, store.text(key, run) || "–")))));
  }
  const table = (names, rows) => make("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "comparison" }, make("table", { class: "plain" }, make("thead", {}, make("tr", {}, make("th", {}, ""), ...names.map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, rows)));

  function pictures(runs, names) {
    const { store } = parediff, with_ = runs.filter((run) => store.text("_picture", run));
    if (with_.length < 1) return [make("p", { class: "soft" }, "None of them kept a sheet of samples.")];
    const seeds = new Set(with_.map((run) => store.text("first_seed", run))), host = make("div", { class: "gallery" });
    const draw = () => { clearInterval(flicker); host.replaceChildren(...(mode === "side" ? with_.map((run) => sheet(run, names[runs.indexOf(run)])) : stacks(with_, runs, names))); };
    const choice = ["side", "difference", "flicker"].map((name) => make("option", { value: name }, { side: "side by side", difference: "difference to the first", flicker: "flicker with the first" }[name]));
    const list = make("select", { id: "picture-mode", onchange: () => { mode = list.value; draw(); } }, ...choice);
    list.value = mode;
    draw();
    const told = seeds.size > 1 ? "Their first seeds differ: equal places are not equal seeds." : "The same place is the same seed.";
    return [make("p", { class: "row" }, make("label", { class: "field" }, "Show ", list), make("span", { class: "soft small" }, told)), host];
  }
  const image = (run, name) => make("img", { loading: "lazy", ...parediff.sizeOf(run), src: parediff.pictureOf(parediff.store.text("_file", run)), alt: `Samples of ${name}` });
  const sheet = (run, name) => make("figure", {}, make("div", { class: "stack" }, image(run, name)), make("figcaption", {}, name));

  function stacks(with_, runs, names) {
    const first = with_[0], nameOf = (run) => names[runs.indexOf(run)];
    const made = with_.slice(1).map((run) => {
      const same = parediff.store.text("_picture", first) === parediff.store.text("_picture", run);
      if (!same) return make("figure", {}, make("p", { class: "notice" }, `${nameOf(run)}: a sheet of another size cannot be laid over the first`));
      const stack = make("div", { class: `stack ${mode}` }, image(first, nameOf(first)), image(run, nameOf(run)));
      return make("figure", {}, stack, make("figcaption", {}, `${nameOf(first)} ${mode === "difference" ? "−" : "⇄"} ${nameOf(run)}`));
    });
    return mode === "difference" ? [...made, gainSlider(made)] : [...made, switcher(made)];
  }
  function gainSlider(made) {
    const slider = make("input", { type: "range", min: 1, max: 12, value: 3, "aria-label": "amplification of the difference", oninput: () => { for (const own of made) own.style.setProperty("--gain", slider.value); } });
    return make("label", { class: "field" }, "amplified ", slider);
  }
  /* By hand, or once in two thirds of a second where it is asked for: never by itself. */
  function switcher(made) {
    const flip = () => { for (const own of made) own.firstElementChild.classList.toggle("first"); };
    const auto = make("input", { type: "checkbox", onchange: () => { clearInterval(flicker); if (auto.checked) flicker = setInterval(flip, 650); } });
    return make("p", { class: "row" }, make("button", { id: "flip", onclick: flip }, "Switch"), make("label", { class: "check" }, auto, "by itself"));
  }
  parediff.comparison = { show, runsOf, difference, again: () => { shown = null; } };
}
