"use strict";

/* The runs by column. A column is unpacked when it is first asked for; numbers lie in one typed array. */
{
  const store = { count: 0, columns: new Map(), labels: [], unpacked: new Map(), byId: new Map() };

  /* What was made of the runs by this name, until they change. */
  const cached = store.cached = (name, made) => {
    if (!store.unpacked.has(name)) store.unpacked.set(name, made());
    return store.unpacked.get(name);
  };

  store.refresh = () => {
    const { told, arrived, labelled } = parediff;
    store.chunks = told.rows.map((name) => arrived.get(name));
    store.count = store.chunks.reduce((sum, chunk) => sum + chunk.count, 0);
    store.labels = labelled.get(told.labels);
    store.columns = new Map(told.columns.map((column) => [column.key, column]));
    store.unpacked.clear();
    const ids = store.texts("id");
    store.byId = new Map(Array.from(ids.codes, (code, index) => [ids.values[code], index]));
  };

  /* Float64Array over all runs, NaN where a run has no such number. */
  store.numbers = (key) => cached(`n ${key}`, () => {
    const found = new Float64Array(store.count).fill(NaN);
    each(key, (index, value) => { if (typeof value === "number") found[index] = value; });
    return found;
  });

  /* {values: distinct texts, codes: Int32Array, -1 where a run has none}. */
  store.texts = (key) => cached(`t ${key}`, () => {
    const known = new Map(), codes = new Int32Array(store.count).fill(-1);
    each(key, (index, value) => {
      const text = String(value);
      let code = known.get(text);
      if (code === undefined) known.set(text, (code = known.size));
      codes[index] = code;
    });
    return { values: [...known.keys()], codes };
  });

  store.text = (key, index) => { const { values, codes } = store.texts(key); return codes[index] < 0 ? "" : values[codes[index]]; };
  store.number = (key, index) => store.numbers(key)[index];
  store.value = (key, index) => {
    if (key === "label") return store.labels[index];
    if (store.columns.get(key)?.kind !== "number") return store.text(key, index) || null;
    const value = store.number(key, index);
    return Number.isNaN(value) ? null : value;
  };
  /* Every number of a column, in order. */
  store.sorted = (key) => cached(`s ${key}`, () => store.numbers(key).filter((value) => !Number.isNaN(value)).sort());
  store.has = (key) => store.chunks.some((chunk) => chunk.columns[key]);
  /* Whether some runs differ in it. */
  store.varies = (key) => cached(`v ${key}`, () => {
    const { values, codes } = store.texts(key);
    return values.length > 1 || (values.length === 1 && codes.includes(-1));
  });
  store.keys = (...sections) => [...store.columns.values()].filter((column) => sections.includes(column.section)).map((column) => column.key);


  function each(key, take) {
    let start = 0;
    for (const chunk of store.chunks) {
      const packed = chunk.columns[key];
      if (packed) {
        const [values, places] = packed;
        for (let index = 0; index < places.length; index++) if (places[index] >= 0) take(start + index, values[places[index]]);
      }
      start += chunk.count;
    }
  }
  parediff.store = store;
}
