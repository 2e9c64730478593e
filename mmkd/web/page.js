"use strict";
// Everything the page shows comes from /model.json and from the lines that /predict answers with.

const SVG = "http://www.w3.org/2000/svg", CURVES = 4, NAMED = 5;
const byId = id => document.getElementById(id);
let model = null, rows = [], chosen = 0, whole = false, request = null;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function draw(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const percent = p => `${(100 * p).toFixed(1)} %`;
const seconds = t => `${t.toFixed(2)} s`;

function say(text, bad = false) {
  byId("state").textContent = text;
  byId("state").className = bad ? "bad" : "";
}

async function start() {
  model = await (await fetch("model.json")).json();
  document.title = byId("name").textContent = model.name;
  const classes = Object.entries(model.heads).map(([head, names]) => `${names.length} of ${head}`).join(", ");
  byId("about").textContent =
    `${model.arch} sees ${model.input.frames} frames of ${model.input.size} px and knows ${classes}.`;
}

// The classes that are drawn over time: those that come nearest to certain at some time.
function outstanding(head) {
  const answered = rows.filter(row => row.probabilities);
  const most = model.heads[head].map((_, i) => Math.max(...answered.map(row => row.probabilities[head][i])));
  return most.map((p, i) => [p, i]).sort((a, b) => b[0] - a[0]).slice(0, CURVES).map(each => each[1]);
}

function timeline(head) {
  const end = rows[rows.length - 1].stop, x = t => 1000 * t / end, y = p => 96 - 92 * p;
  const svg = draw("svg", {viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img",
    "aria-label": `probabilities of ${head} over time`});
  for (const p of [0, 0.5, 1]) svg.append(draw("line", {class: "axis", x1: 0, x2: 1000, y1: y(p), y2: y(p)}));
  const here = rows[chosen];
  svg.append(draw("rect", {class: "here", x: x(here.start), width: x(here.stop - here.start), y: 0, height: 100}));
  for (const row of rows.filter(each => each.error))
    svg.append(draw("rect", {class: "lost", x: x(row.start), width: x(row.stop - row.start), y: 0, height: 100}));
  const answered = rows.filter(row => row.probabilities);
  const legend = make("div", {class: "legend"});
  outstanding(head).forEach((i, number) => {
    const points = answered.length > 1
      ? answered.map(row => [(row.start + row.stop) / 2, row.probabilities[head][i]])
      : answered.flatMap(row => [[row.start, row.probabilities[head][i]], [row.stop, row.probabilities[head][i]]]);
    const path = points.map(([t, p]) => `${x(t).toFixed(1)},${y(p).toFixed(1)}`).join(" ");
    svg.append(draw("polyline", {class: `curve c${number}`, points: path}));
    legend.append(make("span", {class: `l${number}`}, model.heads[head][i]));
  });
  svg.addEventListener("click", event => {
    const box = svg.getBoundingClientRect(), t = end * (event.clientX - box.left) / box.width;
    const far = row => Math.abs((row.start + row.stop) / 2 - t);
    choose(rows.reduce((best, row, i) => far(row) < far(rows[best]) ? i : best, 0));
  });
  const scale = make("p", {class: "soft"}, `0 to ${seconds(end)}, probability 0 to 100 % upwards`);
  return make("div", {class: "time"}, make("h3", {}, head), svg, legend, scale);
}

function bars(title, best, note) {
  const card = make("div", {class: "card"}, make("h3", {}, title));
  for (const [name, p] of best) {
    const part = make("div", {class: "part"});
    part.style.width = `${100 * p}%`;
    card.append(make("div", {class: "row"}, make("span", {}, name), make("span", {class: "value"}, percent(p)),
      make("div", {class: "track"}, part)));
  }
  card.append(make("p", {class: "soft"}, note));
  return card;
}

function sureness(head, best) {
  if (!model.calibrated[head]) return "Not calibrated: this model's folder has no temperature for it.";
  return `Calibrated: of answers this sure, about ${Math.round(10 * best)} in 10 are right, on videos like those that ` +
    "it was measured on.";
}

function choose(number) {
  chosen = Math.max(0, Math.min(rows.length - 1, number));
  show();
}

function show() {
  byId("result").hidden = !rows.length;
  if (!rows.length) return;
  const row = rows[chosen], heads = Object.keys(model.heads);
  byId("times").replaceChildren(...(rows.some(each => each.probabilities) ? heads.map(timeline) : []));
  byId("when").textContent = `${seconds(row.start)} to ${seconds(row.stop)}` +
    (rows.length > 1 ? `, window ${chosen + 1} of ${rows.length} (arrow keys, or a click above)` : "");
  byId("seen").textContent = row.error || (row.frames || []).length ? ""
    : "The frames are shown of the first windows only.";
  byId("frames").replaceChildren(...(row.frames || []).map((data, i) =>
    make("img", {src: data, alt: `frame ${i + 1} that the model saw`})));
  if (row.error) {
    byId("heads").replaceChildren(make("p", {class: "bad"}, row.error));
    return;
  }
  const cards = heads.map(head => {
    const best = row.probabilities[head].map((p, i) => [model.heads[head][i], p]).sort((a, b) => b[1] - a[1]);
    return bars(head, best.slice(0, NAMED), sureness(head, best[0][1]));
  });
  if (row.action.length) {
    const named = row.action.map(({probability, ...names}) => [Object.values(names).join(" "), probability]);
    cards.push(bars("action", named, "The product of the probabilities of its parts."));
  }
  byId("heads").replaceChildren(...cards);
}

function take(line) {
  if (line.failed) throw new Error(line.failed);
  if (line.done) whole = true;
  else rows.push(line);
}

async function predict(file) {
  if (request) request.abort();
  const mine = request = new AbortController();
  rows = [];
  chosen = 0;
  whole = false;
  show();
  say(`Reading ${file.name} ...`);
  const fields = new URLSearchParams({views: byId("views").value, window: byId("window").value || 0,
    hop: byId("hop").value || 0});
  try {
    const response = await fetch(`predict?${fields}`, {method: "POST", body: file, signal: mine.signal});
    if (!response.ok) throw new Error(response.statusText);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", drawn = 0;
    for (;;) {
      const {done, value} = await reader.read();
      if (mine !== request) return;
      const lines = (rest + (value || "")).split("\n");
      rest = lines.pop();
      lines.map(JSON.parse).forEach(take);
      if (done) break;
      if (rows.length && performance.now() - drawn > 300) {
        say(`${file.name}: answered up to ${seconds(rows[rows.length - 1].stop)} ...`);
        show();
        drawn = performance.now();
      }
    }
    if (!whole) throw new Error("its server ended before it did");
    const lost = rows.filter(row => row.error).length;
    say(`${file.name}: ${rows.length} ${rows.length === 1 ? "clip" : "windows"}` +
      (lost ? `, ${lost} without an answer` : ""), lost > 0);
  } catch (error) {
    if (error.name === "AbortError") return;
    say(`${file.name} was not answered: ${error.message}`, true);
  }
  show();
}

byId("file").addEventListener("change", event => {
  if (event.target.files.length) predict(event.target.files[0]);
  event.target.value = "";
});
byId("form").addEventListener("submit", event => event.preventDefault());
for (const [name, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(name, event => {
    event.preventDefault();
    byId("drop").classList.toggle("over", over);
    if (name === "drop" && event.dataTransfer.files.length) predict(event.dataTransfer.files[0]);
  });
}
document.addEventListener("keydown", event => {
  if (event.target.matches("input, select") || !rows.length) return;
  if (event.key === "ArrowRight") choose(chosen + 1);
  if (event.key === "ArrowLeft") choose(chosen - 1);
});
start().catch(error => say(`The page has lost its server: ${error.message}`, true));
