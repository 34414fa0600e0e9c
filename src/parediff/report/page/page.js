"use strict";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const content = (id) => JSON.parse(document.getElementById(id).textContent);

/* Charts arrive without a theme: their text and grid take the page's. */
function themed(figure) {
  const axis = (own) => ({ ...own, gridcolor: colour("--grid"), linecolor: colour("--faint"), tickcolor: colour("--faint") });
  const tip = { ...figure.layout.hoverlabel, bgcolor: colour("--tip"), bordercolor: colour("--edge") };
  tip.font = { ...tip.font, color: colour("--ink") };
  return {
    data: figure.data,
    layout: {
      ...figure.layout,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--faint"), activecolor: colour("--ink") },
      font: { ...figure.layout.font, color: colour("--soft") },
      xaxis: axis(figure.layout.xaxis),
      yaxis: axis(figure.layout.yaxis),
      hoverlabel: tip,
    },
  };
}

function draw(panel) {
  const views = content(panel.dataset.views);
  const view = views[`${panel.dataset.x} ${panel.dataset.y}`];
  const plot = panel.querySelector(".plot");
  const caption = panel.querySelector(".caption");
  caption.replaceChildren();
  for (const text of view.remarks.length ? [view.summary, view.remarks] : [view.summary]) {
    const list = Array.isArray(text);
    const element = document.createElement(list ? "ul" : "p");
    if (list) text.forEach((line) => element.appendChild(document.createElement("li")).append(line));
    else element.textContent = text;
    caption.append(element);
  }
  plot.hidden = view.figure === null;
  if (view.figure === null) return;
  const { data, layout } = themed(view.figure);
  Plotly.react(plot, data, layout, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] });
}

for (const panel of document.querySelectorAll(".panel")) {
  for (const button of panel.querySelectorAll(".choice button")) {
    button.addEventListener("click", () => {
      panel.dataset[button.dataset.axis] = button.dataset.key;
      for (const other of panel.querySelectorAll(`.choice button[data-axis="${button.dataset.axis}"]`))
        other.setAttribute("aria-pressed", String(other === button));
      draw(panel);
    });
  }
  draw(panel);
}
dark.addEventListener("change", () => document.querySelectorAll(".panel").forEach(draw));

/* Tables sort at a click: numbers as numbers, what is missing last. */
function sortBy(table, column, descending) {
  const rows = [...table.tBodies[0].rows];
  const key = (row) => row.cells[column].dataset.sort;
  const numeric = rows.every((row) => key(row) === undefined || key(row) === "" || !Number.isNaN(Number(key(row))));
  rows.sort((a, b) => {
    const [left, right] = [key(a), key(b)];
    if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
    const order = numeric ? Number(left) - Number(right) : left.localeCompare(right, undefined, { numeric: true });
    return descending ? -order : order;
  });
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (table.tBodies[0].rows[0]?.cells[column].classList.contains("number")) head.classList.add("number");
    head.firstElementChild.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortBy(table, column, descending);
    });
  });
}

/* A link to a run opens it. */
function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
window.addEventListener("hashchange", openTarget);
openTarget();
