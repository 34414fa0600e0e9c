"use strict";

/* A run in full, read when it is opened. */
{
  const { make, at, format } = parediff;
  const SECTIONS = ["sampler", "workload", "quality", "fidelity", "stderr", "cost", "baseline", "fired", "calibration", "remarks", "config", "code", "environment", "seconds", "protocol_details"];
  const flat = (value, prefix = "", found = []) => {
    for (const [key, own] of Object.entries(value ?? {})) {
      if (own !== null && typeof own === "object" && !Array.isArray(own)) flat(own, `${prefix}${key}.`, found);
      else found.push([prefix + key, typeof own === "string" ? own : JSON.stringify(own)]);
    }
    return found;
  };
  const settings = (value) => make("dl", { class: "settings" }, flat(value).flatMap(([key, own]) => [make("dt", {}, key), make("dd", {}, own)]));
  let shown = null;

  const show = async (host) => {
    const run = parediff.store.byId.get(parediff.state.run);
    if (run === undefined) { host.hidden = true; host.replaceChildren(); shown = null; return; }
    const key = `${parediff.state.run} ${parediff.told.rows.join()}`;
    host.hidden = false;
    if (shown === key) return;
    shown = key;
    const name = parediff.store.labels[run], file = parediff.store.text("_file", run);
    host.replaceChildren(head(name), make("p", { class: "soft" }, "loading …"));
    let detail;
    try { detail = await parediff.detailOf(file); }
    catch (error) { host.replaceChildren(head(name), make("p", { class: "failed" }, String(error.message))); return; }
    if (shown === key) fill(host, run, name, file, detail);
  };

  const head = (name) => make("div", { class: "panel-head" }, make("h2", { id: "details-title" }, name), make("button", { onclick: () => { parediff.go({ run: null }); at("table-card").scrollIntoView(); } }, "Close"));

  function fill(host, run, name, file, { record, trace, calibration }) {
    const { store } = parediff;
    const told = make("p", { class: "soft small mono" }, `${record.id} · ${store.text("_folder", run)} · protocol ${record.protocol || "(none)"}`);
    const links = make("p", { class: "row" },
      make("button", { onclick: () => parediff.save(`${file}.record.json`, JSON.stringify(record, null, 2), "application/json") }, "record.json"),
      make("button", { onclick: () => parediff.save(`${file}.config.json`, JSON.stringify(record.config, null, 2), "application/json") }, "its config"),
      make("a", { href: parediff.address.write({ ...parediff.address.empty(), run: record.id }) }, "link to this run"));
    const parts = [head(name), told, links];
    if (record.error) parts.push(make("p", { class: "failed" }, record.error));
    if (trace) parts.push(fold("Traceback", make("pre", {}, trace)));
    if (store.text("_picture", run)) parts.push(make("h3", {}, "Samples"), make("img", { class: "sheet", loading: "lazy", ...parediff.sizeOf(run), src: parediff.pictureOf(file), alt: `Samples of ${name}` }));
    if (calibration) parts.push(make("h3", {}, "Calibration images"), calibration.source
      ? make("img", { class: "sheet", src: calibration.source, alt: `Calibration images of ${name}` })
      : make("p", { class: "failed" }, calibration.problem));
    for (const [method, proof] of Object.entries(record.fired ?? {})) {
      const config = record.config?.methods?.[method] ?? {};
      const drawn = parediff.drawings.ofProof(proof, record.sampler?.steps);
      const planned = !proof?.keyframes && Array.isArray(config.keyframes) ? parediff.drawings.schedule(config.keyframes, record.sampler?.steps) ?? [] : [];
      parts.push(make("h3", {}, `What ${method} did`), ...drawn, ...planned);
    }
    for (const section of SECTIONS) if (record[section] && Object.keys(record[section]).length) parts.push(fold(section, settings(record[section]), ["quality", "fidelity", "cost"].includes(section)));
    host.replaceChildren(...parts);
  }
  const fold = (name, content, open = false) => make("details", { open }, make("summary", {}, name), content);
  parediff.runDetails = { show, flat };
}
