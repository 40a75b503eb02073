/* The page's tables, filters and details. All arithmetic was done before: here it is shown, sorted and hidden.
   Text gets into the page through html`...` alone, which escapes whatever is put into it. */

const report = JSON.parse(document.getElementById("data").textContent);
/* Markup: what html`...` made goes in as it is, lists joined, anything else escaped. */
class Markup {
  constructor(text) { this.text = text; }
  toString() { return this.text; }
}

const escaped = (text) => String(text ?? "").replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
const put = (value) => value instanceof Markup ? value.text
  : Array.isArray(value) ? value.map(put).join("") : escaped(value);
const html = (parts, ...values) => new Markup(String.raw({ raw: parts }, ...values.map(put)));
const byId = (id) => document.getElementById(id);

const KINDS = { generative: "generative", baseline: "baselines", probe: "leak probe", published: "published" };
const NUMBER = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const FORMS = {
  share: (value) => value.toFixed(4),
  percent: (value) => (100 * value).toFixed(1) + " %",
  number: (value) => (value >= 1000 ? WHOLE : NUMBER).format(value),
  compact: (value) => COMPACT.format(value),
};

/* What is shown, kept in the address, so that a link shows the same. */
const state = { q: "", sort: "", dir: "", hide: new Set(), show: new Set(["quality", "cost"]) };

function readAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  for (const key of ["q", "sort", "dir"]) state[key] = words.get(key) || "";
  if (words.has("hide")) state.hide = new Set(words.get("hide").split(","));
  if (words.has("show")) state.show = new Set(words.get("show").split(","));
}

function writeAddress() {
  const words = new URLSearchParams();
  for (const key of ["q", "sort", "dir"]) if (state[key]) words.set(key, state[key]);
  for (const key of ["hide", "show"]) words.set(key, [...state[key]].join(","));
  history.replaceState(null, "", "#" + words);
}

/* ---------------------------------------------------------------------------------------------------- tables */

const shownColumns = (table) => table.columns.filter((column) => state.show.has(column.group));

/* The column that a table is sorted by: the one asked for if it has it, else its main metric; best first. */
function sorting(table) {
  const wanted = state.sort === "model" || table.columns.some((column) => column.key === state.sort);
  const key = wanted ? state.sort : table.main;
  const column = table.columns.find((one) => one.key === key);
  const rising = wanted && state.dir ? state.dir === "ascending" : !column || column.less;
  return { key, rising };
}

/* The rows that pass the filter, in order; a row without the value comes last whichever way. */
function visible(table, rows = table.rows) {
  const { key, rising } = sorting(table), sign = rising ? 1 : -1, needle = state.q.toLowerCase();
  const name = (row) => row.label + " " + (row.note || "");
  return rows.filter((row) => !state.hide.has(row.kind || "published") && (!needle || [name(row), row.kind, row.model,
    row.leaky ? "leaky" : "", table.title].join(" ").toLowerCase().includes(needle)))
    .sort(key === "model" ? (a, b) => sign * name(a).localeCompare(name(b)) : (a, b) => {
      const [one, other] = [a.values[key], b.values[key]];
      return (one == null) - (other == null) || (one == null ? 0 : sign * (one - other));
    });
}

function cell(row, column) {
  const value = row.values[column.key];
  if (value == null) return html`<td></td>`;
  const text = FORMS[column.form](value), best = row.best?.[column.key], mark = row.marks?.[column.key];
  const sd = row.sd?.[column.key];
  return html`<td>${best === 1 ? html`<b>${text}</b>` : best === 2 ? html`<u>${text}</u>` : text}${
    mark ? html`<sup>${mark}</sup>` : ""}${sd == null ? "" : html`<small> ± ${FORMS[column.form](sd)}</small>`}</td>`;
}

function tags(row, table) {
  const said = [];
  if (row.leaky) said.push(["bad", "leaky", "sees what is held out: never ranked"]);
  if (row.kind === "probe") said.push(["bad", "leak probe", "trains nothing: what a leak is worth; never ranked"]);
  if (row.impossible) said.push(["bad", "impossible", "breaks " + row.impossible]);
  if (row.baseline?.[table.main]) said.push(["good", "best baseline", "what the stars compare with"]);
  if (row.older) said.push(["", "earlier settings", "a newer run of this model has others; not tested"]);
  return said.map(([kind, text, title]) => html`<span class="tag ${kind}" title="${title}">${text}</span> `);
}

function head(table) {
  const { key, rising } = sorting(table);
  const th = (column) => html`<th scope="col" ${column.key === key
    ? html`aria-sort="${rising ? "ascending" : "descending"}"` : ""}><button type="button" data-sort="${column.key}">${
    column.label}</button></th>`;
  return html`<tr>${[{ key: "model", label: "model" }, ...shownColumns(table)].map(th)}</tr>`;
}

function measuredRow(row, table, index) {
  return html`<tr class="${row.kind}"><th scope="row"><button type="button" data-table="${index}"
    data-row="${table.rows.indexOf(row)}">${row.label}</button> ${tags(row, table)}${
    row.note ? html`<small>${row.note}</small>` : ""}${row.seeds.length > 1
    ? html`<small>${row.seeds.length} seeds</small>` : ""}</th>${
    shownColumns(table).map((column) => cell(row, column))}</tr>`;
}

function publishedRows(table) {
  const columns = shownColumns(table);
  const papers = table.published.map((paper) => [paper, visible(table, paper.rows)]).filter(([, rows]) => rows.length);
  return papers.map(([paper, rows]) => html`<tbody class="published"><tr><th scope="rowgroup"
    colspan="${columns.length + 1}"><span>Published: ${paper.source}</span></th></tr>${
    rows.map((row) => publishedRow(row, table, columns))}</tbody>`);
}

/* Papers tell no costs: why a row is impossible stands in their place. */
function publishedRow(row, table, columns) {
  const measured = columns.filter((column) => column.group === "quality"), rest = columns.length - measured.length;
  const why = row.impossible ? html`breaks ${row.impossible}` : "";
  return html`<tr><th scope="row">${row.label} ${tags(row, table)}${
    why && !rest ? html`<small>${why}</small>` : ""}</th>
    ${measured.map((column) => cell(row, column))}${
    rest ? html`<td class="why" colspan="${rest}">${why}</td>` : ""}</tr>`;
}

/* Of a long table so many rows are drawn, of all as they are sorted and filtered: two thousand at once would stop the
   page for a moment at each sort, and the plots stand below them. A button draws the rest, and so does printing. */
const FIRST = 250;

function draw(table, index) {
  const element = byId("table-" + index), rows = visible(table), shown = table.whole ? rows : rows.slice(0, FIRST);
  element.tHead.innerHTML = head(table);
  element.querySelectorAll("tbody").forEach((old) => old.remove());
  element.insertAdjacentHTML("beforeend", html`<tbody>${shown.map((row) => measuredRow(row, table, index))}</tbody>${
    shown.length < rows.length ? html`<tbody><tr><td class="more" colspan="${shownColumns(table).length + 1}"><button
    type="button" data-whole="${index}">Show all ${WHOLE.format(rows.length)} rows</button></td></tr></tbody>` : ""}${
    publishedRows(table)}`);
  byId("section-" + index).hidden = !element.querySelector("tbody td");
  redraw(table, index);
}

function drawWhole(table, index) {
  table.whole = true;
  draw(table, index);
}

/* Plots are drawn when they come near: a long table does not wait for them. To observe again is to be told again. */
const NEAR = 600;
const near = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) =>
  plot(report.tables[entry.target.dataset.index], entry.target)), { rootMargin: NEAR + "px" });

function plot(table, element) {
  if (!element.open || !table.stale) return;
  table.stale = false;
  drawPlots(element.lastElementChild, table, visible(table));
}

function redraw(table, index) {
  table.stale = true;
  near.unobserve(byId("plots-" + index));
  near.observe(byId("plots-" + index));
}

function drawAll() {
  const active = document.activeElement?.dataset?.sort, home = document.activeElement?.closest?.("table");
  report.tables.forEach(draw);
  if (home) home.querySelector(`[data-sort="${CSS.escape(active || "")}"]`)?.focus();
  const all = report.tables.reduce((sum, table) => sum + table.rows.length, 0);
  const shown = report.tables.reduce((sum, table) => sum + visible(table).length, 0);
  byId("status").textContent = shown === all ? `${all} rows` : `${shown} of ${all} rows`;
}

/* ----------------------------------------------------------------------------------------- the page as a whole */

function setting(table) {
  return [table.users ? `${WHOLE.format(table.users)} users` : "", table.split ? `split ${table.split}` : "",
    table.mask_history == null ? "" : table.mask_history ? "history masked" : "history not masked"]
    .filter(Boolean).join(" · ");
}

function section(table, index) {
  const leaks = table.leaks.filter((check) => check.verdict !== "ok"), baseline = table.baseline[table.main];
  return html`<section id="section-${index}"><h2>${table.title}</h2><p class="setting">${setting(table)}</p>
    <div class="scroll" tabindex="0" role="region" aria-label="Table ${table.title}, ${setting(table)}"><table
    id="table-${index}"><caption>${table.title}, ${setting(table)}</caption><thead></thead></table></div>
    ${baseline ? html`<p class="key">Stars: better than ${baseline}, the best baseline by ${table.main} (other columns
    have their own), for other users like these.</p>` : ""}
    ${leaks.length ? html`<details><summary>Leak checks of the data: ${leaks.filter((one) =>
      one.verdict === "LEAK").length} leaks, ${leaks.filter((one) => one.verdict === "note").length} notes</summary>
      <div class="scroll" tabindex="0" role="region" aria-label="Leak checks of ${table.title}"><table class="plain">
      <thead><tr><th scope="col">check</th><th scope="col">found</th><th scope="col">compared with</th><th
      scope="col">verdict</th><th scope="col">meaning</th></tr></thead><tbody>${table.leaks.map((check) =>
      html`<tr><th scope="row">${check.label}</th><td>${check.value}</td><td>${check.compared}</td><td><span
      class="tag ${check.verdict === "LEAK" ? "bad" : ""}">${check.verdict}</span></td><td>${check.meaning}</td></tr>`)
    }</tbody></table></div></details>` : ""}
    <details id="plots-${index}" data-index="${index}" ${table.ablation ? "" : "open"}><summary>Plots</summary>
    <div class="plots"></div></details></section>`;
}

function checkbox(name, value, label, checked) {
  return html`<label><input type="checkbox" name="${name}" value="${value}" ${checked ? "checked" : ""}>
    ${label}</label>`;
}

function failures(rows) {
  return html`<h2>Runs without a result</h2><div class="scroll" tabindex="0" role="region" aria-label="Runs without a
    result"><table class="plain"><thead><tr><th scope="col">run</th><th scope="col">status</th><th
    scope="col">reason</th><th scope="col">command</th></tr></thead><tbody>${
    rows.map((row) => html`<tr><th scope="row">${row.model} on ${row.dataset}, seed ${row.seed}<small>${
      row.run_id}</small></th><td><span class="tag bad">${row.status}</span></td><td>${row.reason}</td>
    <td>${copyable(row.command)}</td></tr>`)}</tbody></table></div>`;
}

function copyable(command) {
  return html`<span class="command"><code>${command}</code><button type="button" data-copy>Copy</button></span>`;
}

async function copy(button) {
  const code = button.previousElementSibling;
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch { /* a browser that gives no clipboard to a file: selected, for Ctrl+C */
    getSelection().selectAllChildren(code);
    button.textContent = document.execCommand?.("copy") ? "Copied" : "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

function details(table, row) {
  const said = row.interval[table.main], facts = ["timestamp", "config_hash", "version", "dataset_fingerprint",
    "split_fingerprint", "prompt_fingerprint", "trie_fingerprint", "machine", "libraries"];
  byId("details").innerHTML = html`<form method="dialog"><button aria-label="Close">Close</button></form>
    <h2 id="details-title">${row.label} <small>${row.note}</small></h2><p>${tags(row, table)} ${table.title},
    ${setting(table)}</p>${row.impossible ? html`<p class="notice">Impossible: breaks ${row.impossible}</p>` : ""}
    ${said ? html`<p>${table.main}: ${FORMS.share(row.values[table.main])}, 95 % interval over users
    ${FORMS.share(said[0])} to ${FORMS.share(said[1])}</p>` : ""}
    ${row.runs.map((run) => html`<section><h3>${run.run_id}${run.counted ? "" : " (an earlier run with this seed)"}</h3>
    ${copyable(run.command)}${run.whole ? "" : html`<p class="key">Its config.yaml is not there: the command says what
    the leaderboard tells.</p>`}<dl><dt>seed</dt><dd>${run.seed}</dd>${facts.filter((fact) => run[fact]).map((fact) =>
      html`<dt>${fact.replace("_", " ")}</dt><dd>${run[fact]}</dd>`)}</dl></section>`)}`;
  byId("details").showModal();
}

function start() {
  readAddress();
  const count = (kind) => report.tables.reduce((sum, table) => sum + (kind === "published"
    ? table.published.reduce((all, paper) => all + paper.rows.length, 0)
    : table.rows.filter((row) => row.kind === kind).length), 0);
  const groups = [...new Set(report.tables.flatMap((table) => table.columns.map((column) => column.group)))];
  byId("summary").textContent = [`${report.runs} runs`, `${report.tables.length} tables`, report.newest.slice(0, 10) &&
    `newest of ${report.newest.slice(0, 10)}`, report.versions.length && `recbole_genrec ${report.versions.join(", ")}`]
    .filter(Boolean).join(" · ");
  byId("contents").innerHTML = html`${report.tables.map((table, index) =>
    html`<a href="#section-${index}" data-section="${index}">${table.title}</a>`)}`;
  byId("filter").value = state.q;
  byId("kinds").insertAdjacentHTML("beforeend", html`${Object.entries(KINDS).filter(([kind]) => count(kind)).map(
    ([kind, label]) => checkbox("kind", kind, `${label} (${count(kind)})`, !state.hide.has(kind)))}`);
  byId("groups").insertAdjacentHTML("beforeend", html`${groups.map((name) =>
    checkbox("group", name, name, state.show.has(name)))}`);
  byId("tables").innerHTML = html`${report.tables.map(section)}`;
  byId("failed").innerHTML = report.failed.length ? failures(report.failed) : "";
  byId("failed").hidden = !report.failed.length;
  byId("notes").innerHTML = html`<p>Mean ± standard deviation over seeds. <b>Bold</b>: best of the column,
    <u>underlined</u>: second; what is leaky, a leak probe or impossible takes no place. Stars: better than the best
    model without a language-model backbone, by a paired t-test and Wilcoxon's signed-rank test over users, corrected by
    Holm's method; * p &lt; .05, ** &lt; .01, *** &lt; .001. They tell other users, not other seeds. Published rows are of
    other code and often of another protocol: they are not ranked with ours. Tables of different splits or masking do
    not compare.</p>`;
  drawAll();
  listen();
}

function listen() {
  let waiting;
  const changed = () => { writeAddress(); drawAll(); };
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("controls").addEventListener("input", (event) => {
    const { name, value, checked } = event.target;
    if (name === "kind") state.hide[checked ? "delete" : "add"](value);
    if (name === "group") state.show[checked ? "add" : "delete"](value);
    state.q = byId("filter").value.trim();
    clearTimeout(waiting);
    waiting = setTimeout(changed, name ? 0 : 150);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button, a[data-section]"), set = button?.dataset;
    if (!set) return;
    if (set.section) {
      event.preventDefault();  /* the address keeps what is shown */
      byId("section-" + set.section).scrollIntoView();
    } else if (set.sort) {
      const th = button.closest("th"), rising = th.getAttribute("aria-sort") === "ascending";
      const fresh = !th.hasAttribute("aria-sort");
      const column = report.tables.flatMap((table) => table.columns).find((one) => one.key === set.sort);
      state.sort = set.sort;
      state.dir = (fresh ? !column || column.less : !rising) ? "ascending" : "descending";
      changed();
    } else if (set.row) details(report.tables[set.table], report.tables[set.table].rows[set.row]);
    else if (set.whole) drawWhole(report.tables[set.whole], set.whole);
    else if ("copy" in set) copy(button);
  });
  window.addEventListener("hashchange", () => { readAddress(); drawAll(); });
  report.tables.forEach((table, index) => byId("plots-" + index).addEventListener("toggle", ({ target }) => {
    if (target.getBoundingClientRect().top < innerHeight + NEAR) plot(table, target);
  }));
  window.addEventListener("beforeprint", () => {
    report.tables.forEach(drawWhole);
    report.tables.forEach((table, index) => plot(table, byId("plots-" + index)));
  });
  let width = innerWidth;
  window.addEventListener("resize", () => {
    if (width !== innerWidth) report.tables.forEach(redraw);  /* a phone's bars change the height alone */
    width = innerWidth;
  });
}

start();
