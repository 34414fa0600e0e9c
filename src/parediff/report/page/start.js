"use strict";

/* What the page's data scripts call, and how such a script is loaded: fetch() does not work on a page opened from disk. */
const parediff = { told: null, arrived: new Map(), labelled: new Map(), details: new Map(), pictures: new Map() };

parediff.nameOf = (kind, count) => document.currentScript?.dataset.name ?? parediff.told[kind][count];
parediff.manifest = (content) => { parediff.told = content; };
parediff.rows = (chunk) => parediff.arrived.set(parediff.nameOf("rows", parediff.arrived.size), chunk);
parediff.labels = (labels) => parediff.labelled.set(document.currentScript?.dataset.name ?? parediff.told.labels, labels);
parediff.detail = (name, text, trace, calibration) => parediff.details.set(name, { record: JSON.parse(text), trace, calibration });
parediff.picture = (name, source) => parediff.pictures.set(name, source);

parediff.load = (path, name) => new Promise((resolve, reject) => {
  const script = document.createElement("script");
  script.dataset.name = name;
  script.src = path;
  script.onload = () => { script.remove(); resolve(); };
  script.onerror = () => { script.remove(); reject(new Error(`${path} could not be loaded`)); };
  document.head.append(script);
});

/* The scripts of rows and labels that the manifest lists and that are not here yet; what it no longer lists goes. */
parediff.loadRows = async () => {
  const { rows, labels } = parediff.told;
  const missing = [...rows.filter((name) => !parediff.arrived.has(name)), ...(parediff.labelled.has(labels) ? [] : [labels])];
  await Promise.all(missing.map((name) => parediff.load(`data/${name}`, name)));
  for (const name of parediff.arrived.keys()) if (!rows.includes(name)) parediff.arrived.delete(name);
  for (const name of parediff.labelled.keys()) if (name !== labels) parediff.labelled.delete(name);
};

/* The whole record of a run, read when it is looked at. */
parediff.detailOf = async (file) => {
  if (!parediff.details.has(file)) await parediff.load(`data/runs/${encodeURIComponent(file)}.js`, file);
  const own = parediff.details.get(file);
  if (!own) throw new Error(`the record of ${file} could not be read`);
  if (parediff.told.mode === "live") parediff.details.delete(file);
  return own;
};
parediff.pictureOf = (file) => parediff.pictures.get(file) ?? `pictures/${encodeURIComponent(file)}.png`;

/* Width and height of a run's sheet of samples, so that nothing moves when it arrives. */
parediff.sizeOf = (run) => { const [width, height] = parediff.store.text("_picture", run).split("×"); return { width, height }; };

/* An element with attributes, listeners (on…) and children; text is always text. */
parediff.make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
};
parediff.at = (id) => document.getElementById(id);
parediff.colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
