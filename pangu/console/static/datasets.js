"use strict";
// Versions of datasets: their rows a page at a time, what they dropped, and what other thresholds would keep.
const [, , NAME, WANTED] = location.pathname.split("/").map(decodeURIComponent);
let about = null, tab = "kept", reason = "", at = 0, shownRows = null, preview = null, changes = {}, asking = null;

const base = () => `/api/datasets/${encodeURIComponent(NAME)}/${about.version}`;
const source = (kind, place, small) => `${base()}/rows/${kind}/${place}${small ? "?small" : ""}`;
const caption = (row) => (language === "zh" ? row.caption_zh || row.caption_en : row.caption_en || row.caption_zh) || word("nocaption");
const why = (name) => (WORDS[language][name] ? word(name) : name);

async function load() {
  try {
    const overview = await ask("/api/overview");
    showDoor(overview);
    if (!NAME) return showNames(overview.datasets);
    const version = WANTED ?? (await ask(`/api/datasets/${encodeURIComponent(NAME)}`)).version;
    about = await ask(`/api/datasets/${encodeURIComponent(NAME)}/${version}`);
    show();
    await turn(0);
  } catch (error) {
    complain(error.message);
  }
}

let names = null;
function showNames(found) {
  names = found;
  const lines = found.map((name) => element("li", {}, element("a", { className: "name", href: `/datasets/${encodeURIComponent(name)}`, textContent: name })));
  $("about").replaceChildren(element("h2", { textContent: word("datasets") }),
    ...(found.length ? [element("p", { className: "quiet", textContent: word("choose") }), element("ul", { className: "parts" }, ...lines)]
      : [element("p", { textContent: word("nodatasets") }), element("p", { className: "quiet" }, spoken(word("firststep")))]));
}

function show() {
  if (names) return showNames(names);
  if (!about) return undefined;
  const versions = element("select", { id: "version" }, ...about.versions.filter((one) => one.readable).map((one) =>
    new Option(`${one.version} · ${new Date(one.at).toLocaleString(language === "zh" ? "zh-CN" : "en-GB", { dateStyle: "medium", timeStyle: "short" })}`, one.version, false, one.version === about.version)));
  versions.addEventListener("change", () => { location.href = `/datasets/${encodeURIComponent(NAME)}/${versions.value}`; });
  const dropped = Object.values(about.dropped).reduce((sum, count) => sum + count, 0);
  const tabs = [["kept", about.kept], ["dropped", dropped], ["thresholds", null]].map(([name, count]) => {
    const made = element("button", { type: "button", "aria-pressed": String(tab === name) }, word(name), count === null ? "" : ` ${number(count)}`);
    made.addEventListener("click", () => { tab = name; reason = ""; show(); $("about").querySelector("[aria-pressed=true]").focus(); turn(0); });
    return made;
  });
  $("about").replaceChildren(
    element("h2", { textContent: NAME }), about.description ? element("p", { className: "quiet", textContent: about.description }) : "",
    element("div", { className: "row" }, element("div", {}, element("label", { htmlFor: "version", textContent: word("versionsof") }), versions)),
    element("div", { className: "tabs" }, ...tabs));
  $("about").querySelector(".tabs").style.marginTop = "1rem";
  showContent();
  return undefined;
}

function showContent() {
  $("content").hidden = false;
  if (tab === "thresholds") return showThresholds();
  const parts = [];
  if (tab === "dropped") parts.push(reasons());
  if (!shownRows) parts.push(element("p", { className: "quiet", role: "status", textContent: "…" }));
  else if (!shownRows.rows.length) parts.push(element("p", { textContent: word(tab === "dropped" ? "nothingdropped" : "norows") }));
  else {
    const paired = tab === "dropped" && shownRows.rows.some((row) => row.twin);
    parts.push(element("div", { className: `pictures${paired ? " pairs" : ""}` }, ...shownRows.rows.map((row) => figure(tab, row))), pager());
  }
  $("content").replaceChildren(...parts);
  return undefined;
}

function reasons() {
  const all = Object.values(about.dropped).reduce((sum, count) => sum + count, 0);
  const chips = [["", all], ...Object.entries(about.dropped)].map(([name, count]) => {
    const made = element("button", { type: "button", "aria-pressed": String(reason === name) }, name ? why(name) : word("allreasons"), ` ${number(count)}`);
    made.addEventListener("click", () => { reason = name; turn(0).then(() => $("content").querySelector("[aria-pressed=true]")?.focus()); });
    return made;
  });
  return element("div", { className: "tabs" }, ...chips);
}

function picture(kind, place, text) {
  const image = element("img", { src: source(kind, place, true), alt: text, loading: "lazy" });
  const open = element("button", { type: "button", className: "plain" }, image);
  image.addEventListener("error", () => open.replaceWith(element("p", { className: "quiet", textContent: word("gone") })));
  return open;
}

function facts(row) {
  const said = [row.upscaled ? word("upscaled", { w: row.original_width, h: row.original_height }) : word("original", { w: row.original_width, h: row.original_height })];
  if (row.split === "held_out") said.push(word("heldout"));
  for (const name of ["clip_score", "aesthetic", "text_area", "nsfw"]) if (row[name] !== undefined) said.push(`${name} ${number(row[name], 2)}`);
  return said.join(" · ");
}

// A row with its facts; a near duplicate beside the kept picture that it is nearest to.
function figure(kind, row) {
  const text = caption(row), open = picture(kind, row.place, text);
  const own = { source: source(kind, row.place), text, about: facts(row) };
  const words = element("figcaption", {}, text, element("small", { textContent: facts(row) }));
  if (row.reason) words.append(element("small", { className: "unread", textContent: why(row.reason) }));
  if (!row.twin) {
    open.addEventListener("click", () => enlarge([own]));
    return element("figure", {}, open, words);
  }
  const difference = word("differ", row.twin), other = picture("kept", row.twin.place, caption(row.twin));
  const both = [{ ...own, about: `${word("droppedone")} · ${difference}` }, { source: source("kept", row.twin.place), text: caption(row.twin), about: word("nearest") }];
  for (const one of [open, other]) one.addEventListener("click", () => enlarge(both));
  words.append(element("small", { textContent: difference }));
  return element("figure", {}, element("div", { className: "halves" },
    element("div", {}, open, element("small", { textContent: word("droppedone") })), element("div", {}, other, element("small", { textContent: word("nearest") }))), words);
}

function pager() {
  const pages = Math.ceil(shownRows.total / about.page_rows);
  if (pages < 2) return "";
  const move = (by) => turn(at + by).then(() => $("about").scrollIntoView());
  return element("div", { className: "pager" }, button("previous", () => move(-1), { disabled: at === 0 }),
    element("span", { textContent: word("pageof", { page: number(at + 1), pages: number(pages) }) }), button("next", () => move(1), { disabled: at + 1 >= pages }));
}

async function turn(page) {
  if (tab === "thresholds") return;
  at = page;
  try {
    const of = tab === "dropped" && reason ? `&reason=${encodeURIComponent(reason)}` : "";
    shownRows = null;
    shownRows = await ask(`${base()}/rows/${tab}?page=${page}${of}`);
    complain("");
  } catch (error) {
    complain(error.message);
  }
  showContent();
}

function showThresholds() {
  if (!about.thresholds) return $("content").replaceChildren(element("p", {}, word("withoutcard"), " ", spoken(about.without_card)));
  const form = element("form", { id: "thresholds" }, element("div", { className: "fields" }, ...about.thresholds.map(field)));
  form.addEventListener("submit", (event) => event.preventDefault());
  $("content").replaceChildren(element("p", { className: "quiet", textContent: word("thresholdsabout") }), form, element("div", { id: "outcome", "aria-live": "polite" }));
  showOutcome();
  return undefined;
}

function field(threshold) {
  const id = `t.${threshold.name}`, now = threshold.name in changes ? changes[threshold.name] : threshold.value;
  const input = element("input", { id, type: "number", step: threshold.whole ? 1 : "any", placeholder: word("nothreshold"), disabled: !threshold.usable, value: now ?? "" });
  if (threshold.least !== null) input.min = threshold.least;
  if (threshold.most !== null) input.max = threshold.most;
  input.addEventListener("input", () => {
    const value = input.value === "" && !input.validity.badInput ? null : Number(input.value);
    if (value === threshold.value) delete changes[threshold.name];
    else changes[threshold.name] = value;
    later();
  });
  return element("div", {}, element("label", { htmlFor: id, textContent: word(id) }), input,
    threshold.usable ? "" : element("p", { className: "quiet", textContent: word("notmeasured") }));
}

function later() {
  clearTimeout(asking?.timer);
  asking?.stop.abort();
  const stop = new AbortController();
  preview = Object.keys(changes).length ? { counting: true } : null;
  showOutcome();
  if (!preview) return;
  asking = { stop, timer: setTimeout(async () => {
    try {
      const found = await post(`${base()}/preview`, { filters: changes }, { signal: stop.signal });
      const named = async (kind, rows) => (rows.length ? (await ask(`${base()}/rows/${kind}?places=${rows.map((one) => one.place)}`)).rows : []);
      const [going, coming] = [await named("kept", found.going_rows), await named("dropped", found.coming_rows)];
      going.forEach((row, place) => { row.reason = found.going_rows[place].reason; });
      if (!stop.signal.aborted) preview = { found, going, coming };
    } catch (error) {
      if (error.name === "AbortError") return;
      preview = { error };
    }
    showOutcome();
  }, 500) };
}

function showOutcome() {
  const place = $("outcome");
  if (!place) return;
  for (const input of document.querySelectorAll("#thresholds input")) input.removeAttribute("aria-invalid");
  for (const said of document.querySelectorAll("#thresholds .fault")) said.remove();
  if (!preview) return place.replaceChildren(...bars(about.kept, about.dropped));
  if (preview.counting) return place.replaceChildren(element("p", { role: "status", textContent: word("counting") }), element("progress", { "aria-label": word("counting") }));
  if (preview.making) return place.replaceChildren(element("p", { role: "status", textContent: word("making") }), element("progress", { "aria-label": word("making") }));
  if (preview.error) {
    const at = preview.error.param && $(`t.${preview.error.param}`);
    const said = element("p", { className: "fault", role: "alert" }, spoken(preview.error.message));
    if (!at) return place.replaceChildren(said);
    at.setAttribute("aria-invalid", "true");
    at.parentElement.append(said);
    return place.replaceChildren();
  }
  if (preview.made) {
    return place.replaceChildren(element("p", { role: "status" }, element("strong", { textContent: word("made", preview.made) })),
      element("p", { className: "doors" }, element("a", { className: "main", href: `/datasets/${encodeURIComponent(NAME)}/${preview.made.version}`, textContent: word("look") })),
      element("p", { className: "quiet", textContent: word("tokeep") }), element("pre", { textContent: asYaml() }));
  }
  const { found, going, coming } = preview;
  const counts = [["wouldkeep", found.rows], ["wouldgo", found.going], ["wouldcome", found.coming]];
  const parts = [element("div", { className: "figures" }, ...counts.map(([name, count]) => element("div", {}, element("b", { textContent: number(count) }), word(name)))), ...bars(found.rows, found.dropped)];
  for (const [name, rows, kind, count] of [["goingrows", going, "kept", found.going], ["comingrows", coming, "dropped", found.coming]]) {
    if (!rows.length) continue;
    parts.push(element("h2", {}, word(name), count > rows.length ? element("small", { className: "quiet", textContent: ` · ${word("firsts", { n: rows.length })}` }) : ""),
      element("div", { className: "pictures" }, ...rows.map((row) => figure(kind, { ...row, twin: undefined }))));
  }
  if (!found.going && !found.coming) parts.push(element("p", { textContent: word("unchanged") }));
  else parts.push(element("p", { className: "doors" }, button("make", make, { className: "main" }), button("reset", () => { changes = {}; preview = null; showThresholds(); })));
  return place.replaceChildren(...parts);
}

// Rows by what became of them, the kept first.
function bars(kept, dropped) {
  const lines = [["kept", kept], ...Object.entries(dropped).sort((a, b) => b[1] - a[1])], most = Math.max(1, ...lines.map(([, count]) => count));
  return [element("div", { className: "bars" }, ...lines.flatMap(([name, count]) =>
    [element("span", { textContent: why(name) }), element("meter", { min: 0, max: most, value: count, "aria-label": why(name) }), element("span", { textContent: number(count) })]))];
}

async function make() {
  const before = preview;
  preview = { making: true };
  showOutcome();
  try {
    const made = await askWithKey(() => post(`${base()}/refilter`, { filters: changes }));
    preview = { made };
  } catch (error) {
    preview = error.status === 401 ? before : { error };
  }
  showOutcome();
}

function asYaml() {
  const lines = ["filters:"], inner = [];
  for (const [name, value] of Object.entries(changes)) {
    const [outer, within] = name.split(".");
    if (within) inner.push(`    ${within}: ${value}`);
    else lines.push(`  ${outer}: ${value}`);
  }
  return [...lines, ...(inner.length ? ["  near_duplicates:", ...inner] : [])].join("\n");
}

document.addEventListener("DOMContentLoaded", () => { whenSpoken(show); speak(); load(); });
