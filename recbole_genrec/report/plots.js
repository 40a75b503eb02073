"use strict";
/* Plots as inline SVG, in the style sheet's colours: quality against cost, users apart, training, free text.
   Line plots show the first rows of the table as sorted and filtered: to choose is to sort and to filter. */

const MARKERS = [  /* shape and colour say the same, for those who see no colour */
  "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", "M-4,-4h8v8h-8z", "M0,-5L5,4H-5z", "M0,-5.5L5.5,0L0,5.5L-5.5,0z",
  "M0,5L5,-4H-5z", "M-5,-1.5h3.5v-3.5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5z",
  "M-5,-3L-3,-5L0,-2L3,-5L5,-3L2,0L5,3L3,5L0,2L-3,5L-5,3L-2,0z",
  "M0,-5L5,-1L3,5H-3L-5,-1z"];
const KIND_MARKERS = { generative: 0, baseline: 1, probe: 2 };
const HEIGHT = 300, MARGIN = { top: 12, right: 16, bottom: 46, left: 58 };

const seriesName = (row) => row.note
  ? `${row.label} (${row.note.length > 56 ? row.note.slice(0, 55) + "…" : row.note})` : row.label;
const short = (value) => value === 0 ? "0"
  : Math.abs(value) >= 1000 ? COMPACT.format(value) : String(+value.toPrecision(3));

/* ------------------------------------------------------------------------------------------------- scales */

function ticks(low, high, log) {
  if (log) {
    const decades = [], steps = high / low > 300 ? [1] : [1, 2, 5];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      decades.push(...steps.map((step) => step * 10 ** power));
    return decades.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  }
  const raw = (high - low) / 5, unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= raw);
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => +((first + i) * step).toPrecision(12));
}

/* From values to pixels; room beyond the outermost values, from zero where zero is near. */
function scale(values, from, to, { log = false, zero = false } = {}) {
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (zero) low = Math.min(0, low);
  if (log) [low, high] = [low / 1.3, high * 1.3];
  else {
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    [low, high] = [zero && low === 0 ? 0 : low - room, high + room];
  }
  const place = log ? Math.log : (value) => value;
  const at = (value) => from + (to - from) * (place(value) - place(low)) / (place(high) - place(low));
  return { at, ticks: ticks(low, high, log) };
}

function chart(width, x, y, xLabel, yLabel, marks, label, names) {
  const bottom = HEIGHT - MARGIN.bottom, right = width - MARGIN.right;
  return html`<svg width="${width}" height="${HEIGHT}" viewBox="0 0 ${width} ${HEIGHT}" role="group"
    aria-label="${label}">
    ${y.ticks.map((tick) => html`<line class="grid" x1="${MARGIN.left}" x2="${right}" y1="${y.at(tick)}"
    y2="${y.at(tick)}"/>
    <text x="${MARGIN.left - 6}" y="${y.at(tick) + 4}" text-anchor="end">${short(tick)}</text>`)}
    ${(names || x.ticks).map((tick, i) => html`<text x="${x.at(names ? i : tick)}" y="${bottom + 18}"
    text-anchor="middle">${names ? tick : short(tick)}</text>`)}
    <line class="axis" x1="${MARGIN.left}" x2="${right}" y1="${bottom}" y2="${bottom}"/>
    <text class="title" x="${(MARGIN.left + right) / 2}" y="${HEIGHT - 6}" text-anchor="middle">${xLabel}</text>
    <text class="title" x="${-bottom / 2}" y="13" transform="rotate(-90)"
    text-anchor="middle">${yLabel}</text>${marks}</svg>`;
}

const marker = (shape, style, x, y, tip, focusable) => html`<path class="mark ${style}" d="${MARKERS[shape]}"
  transform="translate(${x.toFixed(1)},${y.toFixed(1)})" data-tip="${tip}" role="img" aria-label="${tip}" ${
  focusable ? html`tabindex="0"` : ""}/>`;

/* -------------------------------------------------------------------------------------------------- plots */

function scatter(width, table, rows, view) {
  const metric = view.metric, cost = table.columns.find((column) => column.key === view.cost);
  const both = rows.filter((row) => row.values[metric] != null && row.values[cost.key] != null);
  const points = both.filter((row) => !view.log || row.values[cost.key] > 0);
  const lost = both.filter((row) => view.log && !(row.values[cost.key] > 0)).map((row) => row.label);
  const gone = lost.length ? html`<p class="key">0 is not on a logarithmic axis: ${lost.length > 5
    ? `${lost.length} rows` : lost.join(", ")}.</p>` : "";
  if (!points.length) return gone || html`<p class="key">No row has both.</p>`;
  const x = scale(points.map((row) => row.values[cost.key]), MARGIN.left, width - MARGIN.right, { log: view.log });
  const y = scale(points.map((row) => row.values[metric]), HEIGHT - MARGIN.bottom, MARGIN.top, { zero: true });
  const taken = [], marks = [];
  /* The best that can be had for so much: from cheap to dear, each better than all before. */
  let best = -Infinity, front = "";
  const fair = points.filter((row) => !row.leaky && !row.impossible && row.kind !== "probe");
  for (const row of fair.sort((a, b) => (cost.less ? 1 : -1) * (a.values[cost.key] - b.values[cost.key])
      || b.values[metric] - a.values[metric])) {
    if (row.values[metric] <= best) continue;
    const [left, top] = [x.at(row.values[cost.key]).toFixed(1), y.at(row.values[metric]).toFixed(1)];
    front += front ? `H${left}V${top}` : `M${left},${top}`;
    best = row.values[metric];
  }
  if (front) marks.push(html`<path class="front" d="${front}"/>`);
  for (const row of points) {
    const [left, top] = [x.at(row.values[cost.key]), y.at(row.values[metric])];
    const tip = `${seriesName(row)}: ${metric} ${FORMS.share(row.values[metric])}, ${cost.label} `
      + FORMS[cost.form](row.values[cost.key]);
    marks.push(marker(KIND_MARKERS[row.kind], "kind-" + row.kind, left, top, tip, points.length <= 60));
    const long = row.label.length * 7, flip = left + 8 + long > width - MARGIN.right;
    const box = [flip ? left - 8 - long : left + 8, top - 7, long, 14];
    const free = taken.every(([l, t, w]) => box[0] > l + w || l > box[0] + long || Math.abs(t - box[1]) > 13);
    if (taken.length < 40 && free) {
      taken.push(box);
      marks.push(html`<text class="point" x="${flip ? left - 8 : left + 8}" y="${top + 4}" text-anchor="${
        flip ? "end" : "start"}">${row.label}</text>`);
    }
  }
  const kinds = Object.keys(KIND_MARKERS).filter((kind) => points.some((row) => row.kind === kind));
  const xLabel = cost.label + (view.log ? " (logarithmic)" : "");
  return html`${chart(width, x, y, xLabel, metric, marks, `${metric} against ${cost.label}`)}
    ${legend(kinds.map((kind) => [KIND_MARKERS[kind], "kind-" + kind, KINDS[kind]]))}${gone}`;
}

const legend = (entries) => html`<ul class="legend">${entries.map(([shape, style, name]) => html`<li><svg
  width="26" height="12" viewBox="-13 -6 26 12" aria-hidden="true"><path class="line ${style}" d="M-13,0H13"/><path
  class="mark ${style}"
  d="${MARKERS[shape]}"/></svg>${name}</li>`)}</ul>`;

/* The rows that have a line in line plots: as many as can be told apart. A row looks the same in all plots. */
const lined = (rows) => rows.filter((row) => row.curve.length || row.slices.history || row.slices.popularity)
  .slice(0, MARKERS.length).map((row, number) => ({ row, number, name: seriesName(row) }));

/* Lines through points [x, y, tip] of several rows; ``names`` for an x axis of slices. */
function lines(width, series, xLabel, yLabel, { names, zero = true } = {}) {
  const points = series.flatMap((one) => one.points);
  const room = width - MARGIN.left - MARGIN.right;
  const x = names ? { at: (i) => MARGIN.left + room * (i + 0.5) / names.length }
    : scale(points.map((point) => point[0]), MARGIN.left, width - MARGIN.right);
  const y = scale(points.map((point) => point[1]), HEIGHT - MARGIN.bottom, MARGIN.top, { zero });
  const marks = series.map((one) => html`<path class="line s${one.number}" d="M${one.points.map((point) =>
    x.at(point[0]).toFixed(1) + "," + y.at(point[1]).toFixed(1)).join("L")}"/>${one.points.map((point) =>
    marker(one.number, "s" + one.number, x.at(point[0]), y.at(point[1]), `${one.name}, ${point[2]}`,
      points.length <= 80))}`);
  return html`${chart(width, x, y, xLabel, yLabel, marks, `${yLabel} by ${xLabel}`, names)}
    ${legend(series.map((one) => [one.number, "s" + one.number, one.name]))}`;
}

function slicePlot(width, rows, which, metric, label) {
  const told = lined(rows).map((one) => ({ ...one, slices: one.row.slices[which] || [] }))
    .filter((one) => one.slices[0]?.[metric] != null);
  if (!told.length) return null;
  const names = told.map((one) => one.slices).sort((a, b) => b.length - a.length)[0].map((slice) => slice.slice);
  return lines(width, told.map((one) => ({ ...one, points: one.slices.filter((slice) => names.includes(slice.slice))
    .map((slice) => [names.indexOf(slice.slice), slice[metric],
      `${slice.slice}: ${FORMS.share(slice[metric])} (${WHOLE.format(slice.users)} users)`]) })),
  label, metric, { names });
}

function curvePlot(width, rows, metric, view) {
  const key = view.curve === "loss" ? "loss" : metric;
  const told = lined(rows).map((one) => ({ ...one, points: one.row.curve.filter((point) => point[key] != null)
    .map((point) => [point[view.by], point[key],
      `epoch ${point.epoch}: ${short(point[key])}, ${short(point.seconds)} s`]) }))
    .filter((one) => one.points.length);
  if (!told.length) return null;
  return lines(width, told, view.by === "epoch" ? "epoch" : "seconds of training",
    key === "loss" ? "training loss" : `validation ${key}`, { zero: key !== "loss" });
}

/* A bar a row: shares of what the model writes when nothing constrains it. */
function validityPlot(width, rows) {
  const told = rows.filter((row) => row.validity).slice(0, 20);
  if (!told.length) return null;
  const parts = ["valid", "repeats", "near miss", "empty", "other", "not valid"].filter((part) =>
    told.some((row) => row.validity[part] > 0));
  const style = { "valid": 0, "repeats": 1, "near miss": 2, "empty": 3, "other": 4, "not valid": 4 };
  const bars = told.map((row, i) => {
    let left = 0;
    const there = parts.filter((part) => row.validity[part] > 0);
    return html`<text x="0" y="${i * 34 + 12}">${seriesName(row)}</text>${there.map((part) => {
      const from = left, tip = `${seriesName(row)}: ${FORMS.percent(row.validity[part])} ${part}`;
      left += row.validity[part] * width;
      return html`<rect class="fill f${style[part]}" x="${from}" y="${i * 34 + 16}" height="12"
        width="${left - from}" tabindex="0" role="img" aria-label="${tip}" data-tip="${tip}"/>`;
    })}`;
  });
  const height = told.length * 34;
  return html`<svg width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="group"
    aria-label="Free text">${bars}</svg>
    <ul class="legend">${parts.map((part) => html`<li><svg width="12" height="12" aria-hidden="true"><rect
      class="fill f${style[part]}" width="12" height="12"/></svg>${part}</li>`)}</ul>`;
}

/* ------------------------------------------------------------------------------------------------ together */

function drawPlots(box, table, rows) {
  const costs = table.columns.filter((column) => column.group.endsWith("cost"));
  const metrics = table.columns.filter((column) => column.group === "quality").map((column) => column.key);
  const view = table.view ||= { metric: table.main, cost: costs[0]?.key, log: true, curve: "loss", by: "epoch" };
  const side = Math.max(1, Math.floor((box.clientWidth + 16) / 496));  /* as many beside each other as the style says */
  const width = Math.max(240, (box.clientWidth - 16 * (side - 1)) / side - 26);
  const choice = (label, name, options, chosen) => html`<label>${label} <select name="${name}">${
    options.map(([value, text]) => html`<option value="${value}" ${value === chosen ? "selected" : ""}>${
      text}</option>`)}</select></label> `;
  const views = (...controls) => html`<div class="views">${controls}</div>`;
  const figure = (title, plot, more = "") => plot
    ? html`<figure><figcaption>${title}</figcaption>${more}${plot}</figure>` : "";
  const metric = view.metric, focused = box.contains(document.activeElement) && document.activeElement.name;
  const log = html`<label><input type="checkbox" name="log" ${view.log ? "checked" : ""}> logarithmic</label>`;
  const trained = rows.some((row) => row.curve.length);
  box.innerHTML = html`${views(choice("Metric", "metric", metrics.map((one) => [one, one]), metric))}
    ${costs.length ? figure("Quality against cost", scatter(width, table, rows, view),
      views(choice("Cost", "cost", costs.map((one) => [one.key, one.label]), view.cost), log)) : ""}
    ${figure("By length of history", slicePlot(width, rows, "history", metric, "items before the target"))}
    ${figure("By popularity of the target",
      slicePlot(width, rows, "popularity", metric, "target's training interactions"))}
    ${trained ? figure("Training", curvePlot(width, rows, metric, view) || html`<p class="key">Not recorded.</p>`,
      views(choice("Curve", "curve", [["loss", "training loss"], ["valid", "validation " + metric]], view.curve),
        choice("over", "by", [["epoch", "epochs"], ["seconds", "seconds"]], view.by))) : ""}
    ${figure("Free text: what is written without constraints", validityPlot(width, rows))}`;
  box.querySelectorAll("[name]").forEach((control) => control.addEventListener("change", () => {
    view[control.name] = control.type === "checkbox" ? control.checked : control.value;
    drawPlots(box, table, rows);
  }));
  if (focused) box.querySelector(`[name="${focused}"]`)?.focus();
}

/* What a point is, beside the pointer or the focus. */
for (const event of ["pointerover", "focusin"]) document.addEventListener(event, ({ target }) => {
  const tip = document.getElementById("tip"), text = target.dataset?.tip;
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const box = target.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(box.left, innerWidth - tip.offsetWidth - 4)) + "px";
  tip.style.top = (box.top > tip.offsetHeight + 12 ? box.top - tip.offsetHeight - 6 : box.bottom + 6) + "px";
});
