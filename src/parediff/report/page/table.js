"use strict";

/* The table of all runs: SlickGrid draws the rows that are seen and asks this for them. */
{
  const { format, make } = parediff, ROW = 29, HEAD = 36, BAR = 18, TALLEST = 480;
  let grid = null, rows = [], groups = new Map(), head = "", points = new Map();
  const provider = { getLength: () => rows.length, getItem: (place) => rows[place], getItemMetadata: (place) => {
    const own = rows[place];
    if (own?.group !== undefined) return { cssClasses: "group", columns: { 0: { colspan: "*", formatter: () => own.told } }, focusable: true };
    return own !== undefined && parediff.isSelected(own.run) ? { cssClasses: "chosen" } : null;
  } };

  const keys = () => parediff.state.columns ?? parediff.told.columns.filter((column) => column.shown && parediff.store.has(column.key)).map((column) => column.key);

  const columns = () => {
    const box = { id: "_select", name: "", field: "_select", width: 34, minWidth: 34, resizable: false, sortable: false, cssClass: "tight", toolTip: "selected for comparison", formatter: (_, __, ___, ____, own) => checkbox(own) };
    const star = { id: "_front", name: "★", field: "_front", width: 38, minWidth: 38, resizable: false, sortable: true, cssClass: "tight", toolTip: "on the front that is shown", formatter: (_, __, ___, ____, own) => (points.get(own.run)?.onFront ? make("span", { class: "star", title: "on the front" }, "★") : "") };
    const label = { id: "label", name: "run", field: "label", width: 250, sortable: true, toolTip: "opens the run", formatter: (_, __, ___, ____, own) => make("button", { class: "link", tabindex: "-1", onclick: () => parediff.open(own.run) }, parediff.store.labels[own.run]) };
    const gain = { id: "_gain", name: "vs fewer steps", field: "_gain", width: 130, sortable: true, cssClass: "number", toolTip: "gain over the uncompressed model with fewer steps at the same cost, on the axes that are shown", formatter: (_, __, ___, ____, own) => gainCell(points.get(own.run)?.gain) };
    const sampled = parediff.store.has("sampler.steps") ? [gain] : [];  // a classifier takes no steps
    return [box, star, label, ...sampled, ...keys().filter((key) => parediff.store.columns.has(key)).map(column)];
  };

  function column(key) {
    const own = parediff.store.columns.get(key), numeric = own.kind === "number";
    const unit = numeric ? format.unitFor(own, sampleOf(key)) : { scale: 1, symbol: "" };
    const name = format.head(own) + (unit.symbol && unit.symbol !== "×" ? `, ${unit.symbol}` : "");
    return {
      id: key, field: key, name, toolTip: `${own.key}: ${own.meaning}`, sortable: true, width: Math.max(own.error ? 132 : 90, name.length * 7.4 + 26), cssClass: numeric ? "number" : key === "status" ? "status" : "",
      formatter: (_, __, ___, ____, row) => cell(own, row.run, unit),
    };
  }
  const sampleOf = (key) => { const all = parediff.store.numbers(key), step = Math.max(1, Math.floor(all.length / 500)); return all.filter((value, index) => index % step === 0 && !Number.isNaN(value)); };

  function cell(own, run, unit) {
    const value = parediff.store.value(own.key, run);
    if (value === null) return "";
    if (own.kind !== "number") return own.key === "status" && value === "failed" ? make("span", { class: "failed" }, value) : String(value);
    if (Number.isInteger(value) && !own.symbol && !own.error) return String(value);
    return format.withError(value, own.error ? parediff.store.number(own.error, run) : null, unit.scale);
  }
  function gainCell(gain) {
    if (!gain) return "";
    const text = `${gain.bound}${gain.value >= 0 ? "+" : "−"}${format.withError(Math.abs(gain.value), gain.error, parediff.chart.scene?.unitY.scale ?? 1)}`;
    return make("span", { class: gain.verdict, title: gain.rival ? `${gain.rival} with fewer steps beats both` : gain.verdict }, text + (gain.rival ? " ⚠" : ""));
  }
  function checkbox(own) {
    const box = make("input", { type: "checkbox", tabindex: "-1", "aria-label": `select ${parediff.store.labels[own.run]}`, onclick: (event) => { event.stopPropagation(); parediff.toggle(own.run); } });
    box.checked = parediff.isSelected(own.run);
    return box;
  }

  /* Values to sort by, missing ones last whatever the direction. */
  const compare = (sort) => {
    const ways = sort.map(({ key, ascending }) => [values(key), ascending ? 1 : -1]);
    return (a, b) => {
      for (const [of, way] of ways) {
        const left = of[a], right = of[b];
        if (left < right) return -way;
        if (left > right) return way;
        if (left !== right) { const none = Number.isNaN(left) - Number.isNaN(right); if (none) return none; }
      }
      return a - b;
    };
  };
  function values(key) {
    const { store } = parediff;
    if (key === "_front") return Array.from({ length: store.count }, (_, run) => (points.get(run)?.onFront ? 0 : 1));
    if (key === "_gain") return Array.from({ length: store.count }, (_, run) => points.get(run)?.gain?.value ?? NaN);
    if (key === "label") return store.cached("r label", () => ranks(store.labels));
    if (store.columns.get(key)?.kind === "number") return store.numbers(key);
    return store.cached(`r ${key}`, () => {
      const { values: texts, codes } = store.texts(key), order = ranks(texts);
      return Float64Array.from(codes, (code) => (code < 0 ? NaN : order[code]));
    });
  }
  const collator = new Intl.Collator(undefined, { numeric: true });
  function ranks(texts) {
    const found = new Array(texts.length);
    texts.map((_, index) => index).sort((a, b) => collator.compare(texts[a], texts[b])).forEach((index, rank) => { found[index] = rank; });
    return found;
  }

  /* The runs in the order of the table. */
  const ordered = (runs) => (parediff.state.sort.length ? [...runs].sort(compare(parediff.state.sort)) : [...runs]);

  const show = (host, runs, fronts) => {
    points = new Map();
    for (const front of fronts) for (const point of front.points) for (const run of point.runs) points.set(run, point);
    const sorted = ordered(runs), { group } = parediff.state;
    rows = group ? grouped(sorted, group) : sorted.map((run) => ({ run }));
    const wanted = `${parediff.told.rows.join()} ${keys().join()}`;
    if (!grid) create(host);
    else if (wanted !== head) grid.setColumns(columns());
    head = wanted;
    grid.setSortColumns(parediff.state.sort.map(({ key, ascending }) => ({ columnId: key, sortAsc: ascending })));
    grid.updateRowCount();
    grid.invalidate();
    host.setAttribute("aria-rowcount", rows.length);
    const height = `${Math.max(150, Math.min(TALLEST, HEAD + ROW * rows.length + BAR))}px`;
    if (host.style.height !== height) { host.style.height = height; grid.resizeCanvas(); }
  };

  /* A row for each value of the key, its runs below it; the groups in the order of their first run. */
  function grouped(sorted, key) {
    groups = new Map();
    for (const run of sorted) {
      const value = String(parediff.store.value(key, run) ?? "(none)");
      if (!groups.has(value)) groups.set(value, []);
      groups.get(value).push(run);
    }
    const best = (runs) => runs.filter((run) => points.get(run)?.onFront).length;
    return [...groups].flatMap(([value, runs]) => [
      { group: value, told: `${parediff.store.columns.get(key)?.title ?? key}: ${value || "(none)"} — ${runs.length} run${runs.length > 1 ? "s" : ""}, ${best(runs)} on the front` },
      ...runs.map((run) => ({ run })),
    ]);
  }

  function create(host) {
    grid = new Slick.Grid(host, provider, columns(), {
      multiColumnSort: true, numberedMultiColumnSort: true, tristateMultiColumnSort: true, enableCellNavigation: true, enableColumnReorder: true, enableHtmlRendering: false,
      rowHeight: ROW, forceFitColumns: false, enableTextSelectionOnCells: true, suppressCssChangesOnHiddenInit: true, frozenColumn: -1,
    });
    host.querySelectorAll(".slick-viewport").forEach((own) => own.setAttribute("tabindex", "0"));
    grid.onHeaderCellRendered.subscribe((_, { node, column: own }) => heading(node, own));
    grid.setColumns(columns());
    grid.onSort.subscribe((_, { sortCols }) => parediff.go({ sort: sortCols.map(({ columnId, sortAsc }) => ({ key: columnId, ascending: sortAsc })) }));
    grid.onKeyDown.subscribe((event, { row }) => {
      const own = rows[row];
      if (own?.run === undefined || (event.key !== "Enter" && event.key !== " ")) return;
      event.preventDefault(); event.stopImmediatePropagation?.();
      if (event.key === "Enter") parediff.open(own.run); else parediff.toggle(own.run);
    });
    grid.onColumnsReordered.subscribe(() => parediff.go({ columns: grid.getColumns().map((own) => own.id).filter((id) => parediff.store.columns.has(id)) }));
    new ResizeObserver(() => grid.resizeCanvas()).observe(host);
  }

  /* A head can be reached with the keyboard: Enter sorts by it, Shift and Enter by it too. */
  function heading(node, own) {
    if (!own.sortable) return;
    const sorted = parediff.state.sort.find(({ key }) => key === own.id);
    node.tabIndex = 0;
    node.setAttribute("aria-sort", sorted ? (sorted.ascending ? "ascending" : "descending") : "none");
    node.onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      const flipped = { key: own.id, ascending: sorted ? !sorted.ascending : true };
      const others = event.shiftKey ? parediff.state.sort.filter(({ key }) => key !== own.id) : [];
      parediff.go({ sort: [...others, flipped] });
      document.querySelector(`#table .slick-header-column[data-id="${CSS.escape(own.id)}"]`)?.focus();
    };
  }

  const repaint = () => grid?.invalidate();
  parediff.table = { show, repaint, ordered, keys, pointOf: (run) => points.get(run), get rows() { return rows; }, get grid() { return grid; } };
}
