"use strict";

const report = JSON.parse(document.getElementById("report-data").textContent);
const root = document.documentElement;
const byId = (id) => document.getElementById(id);
const percent = (part, whole) => `${((100 * part) / whole).toFixed(2)} %`;
const fixed = (value) => (value === null ? "–" : value.toFixed(4));
const PRINT_WIDTH = 660; // CSS pixels between the margins of a printed page

/* Colors: a chart holds names like "@ink" and "@1"; the style sheet defines them. */

function themed(value, key = "") {
  if (Array.isArray(value)) return value.map((item) => themed(item, key));
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(
      Object.entries(value).map(([name, item]) => [name, themed(item, name)])
    );
  }
  const named = /color(scale)?$/.test(key) && typeof value === "string" && value.startsWith("@");
  if (!named) return value;
  return getComputedStyle(root).getPropertyValue(`--${value.slice(1)}`).trim();
}

/* Charts */

/** Draws a chart for the first time or again. Curves that the reader has hidden stay hidden. */
function drawChart(chart, width) {
  const box = byId(`chart-${chart.name}`);
  const data = themed(chart.data);
  (box.data || []).forEach((trace, index) => {
    if (trace.visible !== undefined) data[index].visible = trace.visible;
  });
  const layout = { ...themed(chart.layout), height: chart.height };
  if (width) layout.width = width;
  else layout.autosize = true;
  Plotly.react(box, data, layout, { responsive: true, displayModeBar: false });
}

function drawCharts(width) {
  report.charts.forEach((chart) => drawChart(chart, width));
}

/* Pictures with masks */

function loaded(address) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("a picture of this page is damaged"));
    image.src = address;
  });
}

/** The brightness of every pixel of a picture. */
async function pixelsOf(address, width, height) {
  const image = await loaded(address);
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const colors = context.getImageData(0, 0, width, height).data;
  return Uint8Array.from({ length: width * height }, (_, k) => colors[4 * k]);
}

/** A function that gives the pixels of a picture and decodes each picture once. */
function pictureStore(width, height) {
  const kept = new Map();
  return (address) => {
    if (!kept.has(address)) kept.set(address, pixelsOf(address, width, height));
    return kept.get(address);
  };
}

function rgb(name) {
  const text = getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  return [1, 3, 5].map((start) => parseInt(text.slice(start, start + 2), 16));
}

/** Paints a gray picture. `colorAt` gives the color of the overlay at a pixel, or null. */
function paint(canvas, gray, colorAt) {
  const context = canvas.getContext("2d");
  const picture = context.createImageData(canvas.width, canvas.height);
  for (let k = 0; k < gray.length; k += 1) {
    const color = colorAt(k);
    for (let c = 0; c < 3; c += 1) {
      picture.data[4 * k + c] = color ? 0.4 * gray[k] + 0.6 * color[c] : gray[k];
    }
    picture.data[4 * k + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
}

function errorColors(guess, truth) {
  const [tp, fp, fn] = ["tp", "fp", "fn"].map(rgb);
  return (k) => {
    if (guess[k]) return truth[k] ? tp : fp;
    return truth[k] ? fn : null;
  };
}

function viewer(one) {
  const part = (name) => byId(`${one.id}-${name}`);
  const [step, choice, overlay] = [part("step"), part("image"), part("overlay")];
  const pixels = pictureStore(one.width, one.height);
  let latest = 0;

  async function show() {
    const turn = (latest += 1);
    const index = Number(step.value);
    const image = one.images[Number(choice.value)];
    const [snn, ann] = [image.scores.snn[index], image.scores.ann];
    const t = one.timesteps[index];
    part("value").textContent = `T = ${t}`;
    step.setAttribute("aria-valuetext", `T = ${t}`);
    part("caption").textContent =
      `Image ${Number(choice.value) + 1} of ${one.n}, T = ${t}: F1 is ${fixed(snn.f1)} and the ` +
      `Jaccard index ${fixed(snn.jaccard)} (analog network: ${fixed(ann.f1)} and ` +
      `${fixed(ann.jaccard)}). ${snn.fp.toLocaleString("en")} pixels are false positive and ` +
      `${snn.fn.toLocaleString("en")} are false negative.`;
    const names = [image.raw, image.snn[index], image.label, image.ann];
    const [raw, guess, truth, analog] = await Promise.all(names.map(pixels));
    if (turn !== latest) return; // the reader has moved on
    const none = () => null;
    const found = rgb("found");
    const on = overlay.checked;
    paint(part("prediction"), raw, on ? (k) => (guess[k] ? found : null) : none);
    paint(part("errors"), raw, on ? errorColors(guess, truth) : none);
    paint(part("analog"), raw, on ? errorColors(analog, truth) : none);
    byId(one.id).dataset.shown = `${choice.value}/${t}/${on}`;
  }

  step.addEventListener("input", show);
  choice.addEventListener("change", show);
  overlay.addEventListener("change", show);
  return show();
}

/* Confusion tables and flips */

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  return made;
}

function fillConfusion(table, names, label, guess) {
  const counts = names.map(() => names.map(() => 0));
  label.forEach((row, k) => {
    counts[row][guess[k]] += 1;
  });
  table.querySelectorAll("thead, tbody").forEach((old) => old.remove());
  const head = element("tr");
  head.append(element("td", ""));
  names.forEach((name) => {
    const cell = element("th", undefined, { scope: "col" });
    cell.append(element("span", name));
    head.append(cell);
  });
  const body = element("tbody");
  counts.forEach((row, index) => {
    const line = element("tr");
    const whole = row.reduce((sum, count) => sum + count, 0);
    line.append(element("th", names[index], { scope: "row" }));
    row.forEach((count, column) => {
      const cell = element("td", count ? String(count) : "");
      const share = whole ? count / whole : 0;
      if (count) cell.style.background = `rgba(var(--heat), ${(0.06 + 0.39 * share).toFixed(3)})`;
      if (index === column) cell.className = "right";
      cell.title = `${names[index]} taken for ${names[column]}: ${count} of ${whole}`;
      line.append(cell);
    });
    body.append(line);
  });
  const top = element("thead");
  top.append(head);
  table.append(top, body);
}

function flipCard(flip, index) {
  const card = element("li");
  const says = [["label", flip.label], ["ANN", flip.ann], ["SNN", flip.snn[index]]];
  card.append(element("img", undefined, { src: flip.picture, alt: `Sample ${flip.index}` }));
  const list = element("dl");
  says.forEach(([who, what]) => list.append(element("dt", who), element("dd", what)));
  card.append(list);
  return card;
}

function confusion(one) {
  const part = (name) => byId(`${one.id}-${name}`);
  const step = part("step");

  function show() {
    const index = Number(step.value);
    const t = one.timesteps[index];
    part("value").textContent = `T = ${t}`;
    step.setAttribute("aria-valuetext", `T = ${t}`);
    part("caption").textContent =
      `At T = ${t} the spiking network is right on ${percent(one.right[index], one.n)} and the ` +
      `analog network on ${percent(one.ann_right, one.n)}. They differ on ${one.differ[index]} of ` +
      `${one.n} samples.`;
    fillConfusion(part("snn"), one.classes, one.label, one.snn[index]);
    byId(one.id).dataset.shown = String(t);
    if (!one.flips.length) return;
    const flips = one.flips.filter((flip) => flip.snn[index] !== flip.ann);
    part("flips").textContent =
      `At T = ${t} the networks differ on ${one.differ[index]} samples. ${flips.length} of them ` +
      `are among the ${one.flips.length} pictures that the file holds. It holds the samples that ` +
      "differ latest.";
    part("gallery").replaceChildren(...flips.map((flip) => flipCard(flip, index)));
  }

  step.addEventListener("input", show);
  fillConfusion(part("ann"), one.classes, one.label, one.ann);
  show();
}

/* Themes and paper */

function printing(on) {
  root.classList.toggle("printing", on);
  document.querySelectorAll("details").forEach((box) => {
    if (on) {
      box.dataset.wasOpen = box.open;
      box.open = true;
    } else {
      box.open = box.dataset.wasOpen === "true";
    }
  });
  drawCharts(on ? PRINT_WIDTH : undefined);
}

drawCharts();
report.labeled.forEach(confusion);
Promise.all(report.masks.map(viewer)).then(() => {
  root.dataset.ready = "true";
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCharts());
addEventListener("beforeprint", () => printing(true));
addEventListener("afterprint", () => printing(false));
