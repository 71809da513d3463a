"use strict";
const byId = (id) => document.getElementById(id);
const filters = byId("filters");
const index = byId("index") ? JSON.parse(byId("index").textContent) : null;

// Tables: a click on a heading sorts, the choices above hide rows.

const key = (cell) => {
  const text = cell.textContent.trim();
  const number = Number.parseFloat(text.replaceAll(",", "").replace("−", "-"));
  return { text, number, empty: text === "–" || text === "" };
};

function compare(one, other) {
  if (one.empty !== other.empty) return one.empty ? Infinity : -Infinity;  // last in either direction
  if (Number.isFinite(one.number) && Number.isFinite(other.number)) return one.number - other.number;
  return one.text.localeCompare(other.text);
}

function sortBy(head) {
  const table = head.closest("table");
  const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: key(row.cells[head.cellIndex]) }));
  rows.sort((one, other) => {
    const found = compare(one.key, other.key);
    return Number.isFinite(found) ? direction * found : found > 0 ? 1 : -1;
  });
  table.tBodies[0].append(...rows.map(({ row }) => row));
}

for (const head of document.querySelectorAll("table.data thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = head.textContent;
  button.addEventListener("click", () => sortBy(head));
  head.replaceChildren(button);
}

function filterRows() {
  const chosen = Object.fromEntries(new FormData(filters));
  const text = chosen.text.toLowerCase();
  const matches = (data) => ["model", "method", "family"].every((name) => !chosen[name] || (data[name] ?? chosen[name]) === chosen[name]);
  let shown = 0;
  for (const part of document.querySelectorAll("section[data-family], #results li")) part.hidden = !matches(part.dataset);
  const rows = document.querySelectorAll("table.data tbody tr");
  for (const row of rows) {
    row.hidden = !matches(row.dataset) || (text !== "" && !row.textContent.toLowerCase().includes(text));
    shown += !row.hidden && !row.closest("section[hidden]");
  }
  filters.querySelector("output").textContent = `${shown} of ${rows.length} rows`;
}

filters.hidden = false;
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("input", (event) => {
  filterRows();
  if (index && event.target.name !== "text") drawAll();  // text chooses rows of tables alone
});
filterRows();

// Figures: larger in a dialog of their own.

const zoom = byId("zoom");
for (const button of document.querySelectorAll(".enlarge")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const image = zoom.querySelector("img");
    const figure = button.closest("figure").querySelector("img");
    image.src = figure.src;
    image.alt = figure.alt;
    zoom.showModal();
    image.style.width = `${zoom.clientWidth - 40}px`;
  });
}
zoom.addEventListener("click", (event) => {
  const by = Number(event.target.dataset.by);
  if (by) zoom.querySelector("img").style.width = `${zoom.querySelector("img").clientWidth * by}px`;
});

// Prompts: their curves are compressed, and unpacked when they are shown.

async function unpack(place) {
  const bytes = Uint8Array.from(atob(byId(`prompt-${place}`).textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

const share = (parts) => parts / index.parts;

/** Rows for a chart: of each run the target, the law's band and the draws, over the values or over the target's shares. */
function rowsOf(content, runs, id, overShares) {
  const target = content.target.map(share);
  const across = overShares ? target : content.points;
  return runs.flatMap((run) => {
    const head = { method: run.method, prompt: `${id} ${run.seed}` };
    const rows = overShares ? [] : across.map((x, i) => ({ ...head, kind: "target", x, y: target[i] }));
    if (run.low) rows.push(...across.map((x, i) => ({ ...head, kind: "law", x, y: share(run.low[i]), top: share(run.high[i]) })));
    if (run.drawn) rows.push(...across.map((x, i) => ({ ...head, kind: "drawn", x, y: share(run.drawn[i]) })));
    return rows;
  });
}

function chart(rows, { across, description, step, width }) {
  const methods = index.methods.filter((name) => rows.some((row) => row.method === name));
  const interpolate = step ? "step-after" : "linear";
  const color = { field: "method", type: "nominal", legend: null, scale: { domain: methods, range: methods.map((name) => index.colors[name]) } };
  const y = { field: "y", type: "quantitative", title: "probability", scale: { domain: [0, 1] } };
  const of = (kind) => [{ filter: `datum.kind === "${kind}"` }];
  const columns = Math.max(1, Math.min(methods.length, Math.floor(width / 260)));
  return {
    description,
    data: { values: rows },
    facet: { field: "method", type: "nominal", sort: methods, title: null, header: { labelFontSize: 13 } },
    columns,
    resolve: { axis: { x: "independent" } },
    spec: {
      width: Math.max(160, Math.min(260, Math.floor(width / columns) - 70)),
      height: 190,
      encoding: { x: { field: "x", type: "quantitative", title: across, scale: { zero: false, nice: false } }, detail: { field: "prompt" } },
      layer: [
        { transform: of("law"), mark: { type: "area", opacity: 0.35, interpolate }, encoding: { y, y2: { field: "top" }, color } },
        { transform: of("drawn"), mark: { type: "line", strokeWidth: 1.4, interpolate }, encoding: { y, color } },
        { transform: of("target"), mark: { type: "line", strokeWidth: 1, strokeDash: [5, 3], color: "#555", interpolate }, encoding: { y } },
      ],
    },
    config: { view: { stroke: "#ddd" }, axis: { gridColor: "#eee" }, font: "system-ui, sans-serif" },
  };
}

const views = new Map();
async function show(place, spec) {
  views.get(place)?.finalize();
  const { view } = await vegaEmbed(place, spec, { renderer: "svg", actions: false });
  views.set(place, view);
}

/** Of each method the run of a seed; what is the same for all seeds was run at one. */
function firstOfEach(runs, seed) {
  return index.methods.flatMap((method) => {
    const mine = runs.filter((run) => run.method === method);
    return mine.find((run) => String(run.seed) === String(seed)) ?? mine.slice(0, 1);
  });
}

const chosenMethod = (run) => !filters.elements.method.value || [filters.elements.method.value, index.reference].includes(run.method);

async function drawFamily(place, model) {
  const prompts = index.prompts.map((prompt, number) => ({ ...prompt, number })).filter((prompt) => prompt.family === place.dataset.chart);
  const rows = [];
  for (const prompt of prompts) {
    const content = await unpack(prompt.number);
    const ofModel = content.runs.filter((run) => run.model === model);
    const runs = firstOfEach(ofModel.filter(chosenMethod), Math.min(...ofModel.map((run) => run.seed)));
    rows.push(...rowsOf(content, runs, prompt.id, true));
  }
  const diagonal = [...new Set(rows.map((row) => row.method))].flatMap((method) =>
    [0, 1].map((x) => ({ method, prompt: "target", kind: "target", x, y: x })));
  const description = `${place.dataset.chart}, ${model}: distribution functions of law and draws over the target's; the table has the numbers`;
  await show(place, chart([...rows, ...diagonal], { across: "target's probability", description, step: false, width: place.clientWidth }));
}

const withInterval = (value, low, high) => (low === undefined ? value : `${rounded(value)} [${rounded(low)}, ${rounded(high)}]`);
const SHOWN = [
  ["method", (run) => run.method],
  ["draws", ({ numbers }) => numbers.n && String(numbers.n)],
  ["valid rate [95%]", ({ numbers }) => withInterval(numbers.valid_rate, numbers.valid_rate_low, numbers.valid_rate_high)],
  ["PIT W1 of the law, at least", ({ numbers }) => numbers.law_pit_w1_low],
  ["at most", ({ numbers }) => numbers.law_pit_w1_high],
  ["PIT W1 of draws", ({ numbers }) => numbers.pit_w1],
  ["floor", ({ numbers }) => numbers.pit_w1_floor],
  ["p of the test of fit", ({ numbers }) => (numbers.p_fit < 1e-4 && numbers.p_fit !== null ? "<0.0001" : numbers.p_fit)],
];
const rounded = (value) => (typeof value === "number" ? String(Number(value.toPrecision(3))) : value ?? "–");
const cell = (kind, text, scope) => Object.assign(document.createElement(kind), { textContent: text }, scope && { scope });

function fillNumbers(runs, seed) {
  const [head, body] = [byId("numbers").tHead, byId("numbers").tBodies[0]];
  const heads = [...SHOWN.map(([name]) => name), "first draws"];
  head.replaceChildren(document.createElement("tr"));
  head.rows[0].append(...heads.map((name) => cell("th", name, "col")));
  body.replaceChildren(...runs.map((run) => {
    const row = document.createElement("tr");
    row.append(...SHOWN.map(([, value], place) => cell(place ? "td" : "th", rounded(value(run)), place ? null : "row")));
    if (String(run.seed) !== seed) row.cells[0].append(` (seed ${run.seed})`);
    const samples = cell("td", "");
    samples.className = "samples";
    samples.append(...(run.samples ?? []).map((text) => cell("code", (text.length > 80 ? `${text.slice(0, 80)}…` : text).replaceAll("\n", "¶") || " ")));
    row.append(samples);
    return row;
  }));
}

let asked = 0;
async function drawPrompt() {
  const chosen = Object.fromEntries(new FormData(byId("choice")));
  const number = index.prompts.findIndex((prompt) => prompt.id === chosen.prompt);
  const mine = ++asked;
  const content = await unpack(number);
  if (mine !== asked) return;  // another prompt was chosen in the meantime
  const ofModel = content.runs.filter((run) => run.model === chosen.model);
  const runs = firstOfEach(ofModel.filter(chosenMethod), chosen.seed);
  byId("question").textContent = index.prompts[number].text;
  byId("whose").textContent = `${chosen.model}, seed ${chosen.seed}`;
  fillNumbers(runs, chosen.seed);
  const description = `${chosen.prompt}, ${chosen.model}: distribution functions of target, law and draws; the table below has the numbers`;
  await show(byId("chart-prompt"), chart(rowsOf(content, runs, chosen.prompt, false), { across: "value", description, step: content.discrete, width: byId("chart-prompt").clientWidth }));
}

const idle = () => new Promise((resolve) => (window.requestIdleCallback ?? setTimeout)(resolve));
let drawing = 0;
/** All charts, the chosen prompt's first; a later call ends an earlier one. */
async function drawAll() {
  const mine = ++drawing;
  delete document.documentElement.dataset.drawn;
  if (filters.elements.model.value) byId("choice").elements.model.value = filters.elements.model.value;
  await drawPrompt();
  for (const place of document.querySelectorAll("[data-chart]")) {
    await idle();
    if (mine !== drawing) return;
    if (!place.closest("section").hidden) await drawFamily(place, filters.elements.model.value || index.models[0]);
  }
  document.documentElement.dataset.drawn = "all";
}

if (index) {
  byId("choice").hidden = false;
  byId("choice").addEventListener("input", drawPrompt);
  byId("choice").addEventListener("submit", (event) => event.preventDefault());
  drawAll();
}

// An older browser has no DecompressionStream, for one.
window.addEventListener("unhandledrejection", ({ reason }) => {
  byId("question").textContent = `This browser cannot show the curves (${reason}); figures and tables do not need it.`;
});
