"use strict";
// Trainings of the home: both halves beside each other, newest samples and curves, and the samples of before.
const EVERY_MS = 5000, LIVE_MS = 120000, WIDTH = Math.min(640, innerWidth - 40), HEIGHT = 240, EDGE = { left: 48, right: 8, top: 8, bottom: 24 };
const COLOURS = ["var(--ink)", "var(--accent)", "var(--good)", "var(--busy)", "#4a7bd0", "#a05fc4"];
let found = null, answered = "", chosen = {}, curves = {}, captions = {};

const grid = (run, step) => `/api/trainings/${encodeURIComponent(run)}/grids/${step}`;
const isLive = (run) => !run.finished && Date.now() - run.updated_ms < LIVE_MS;

function show() {
  if (!found) return;
  if (!found.length) return $("trainings").replaceChildren(element("section", {}, element("h2", { textContent: word("training") }), element("p", { textContent: word("notrainings") }), element("p", { className: "quiet" }, spoken(word("firststep")))));
  const focused = document.activeElement?.id;
  const [newest, ...older] = found.map((group) => element("section", {}, element("h2", { textContent: word("pairof", group) }), element("div", { className: "two" }, ...group.runs.map(shownRun)), ...sheet(group)));
  const rest = older.length ? element("details", { open: Boolean($("trainings").querySelector("details.older")?.open), className: "older" }, element("summary", { textContent: word("olderones") }), ...older) : "";
  $("trainings").replaceChildren(newest, rest);
  if (focused) $(focused)?.focus();
  return undefined;
}

// What `pangu retrain` drew of the pair before and after.
function sheet(group) {
  if (!group.sheet) return [];
  const text = word("sheet", group), source = `/api/sheets/${encodeURIComponent(group.dataset)}?v=${group.sheet}`;
  const open = element("button", { type: "button", className: "plain" }, element("img", { className: "sheet", src: source, alt: text }));
  open.addEventListener("click", () => enlarge([{ source, text }]));
  return [element("h3", { textContent: text }), open];
}

function shownRun(run) {
  const kind = run.finished ? state("good", word("finished")) : isLive(run) ? state("busy", word("live")) : state("bad", word("stopped"));
  const figures = [run.loss !== null && run.loss !== undefined ? `loss ${number(run.loss, 4)}` : "", run.metrics.images_per_s ? word("imagespersecond", { n: number(run.metrics.images_per_s, 1) }) : "", run.updated_ms ? ago(run.updated_ms) : ""];
  const parts = [
    element("h3", {}, WORDS[language][run.role] ? word(run.role) : run.role, " ", kind),
    element("progress", { max: run.steps, value: run.step, "aria-label": word("step", run) }),
    element("p", { className: "quiet", textContent: [word("step", run), ...figures.filter(Boolean)].join(" · ") }),
  ];
  if (run.grids.length) parts.push(...samples(run));
  else parts.push(element("p", { className: "quiet", textContent: word("nogrid") }));
  parts.push(curve(run));
  return element("div", {}, ...parts, element("p", { className: "quiet", textContent: run.run }));
}

// The newest grid, or that of the step that was chosen; and the first beside the newest in the large.
function samples(run) {
  const newest = run.grids.at(-1), step = chosen[run.run] ?? newest, id = `step-${run.run}`;
  const text = word("gridof", { step: number(step) }), about = (captions[run.run] || []).map((one) => one.caption).filter(Boolean).join(" · ");
  const image = element("img", { className: "sheet", src: grid(run.run, step), alt: `${text}: ${about}` });
  const open = element("button", { type: "button", className: "plain" }, image);
  open.addEventListener("click", () => enlarge([{ source: image.src, text, about }]));
  const slider = element("input", { id, type: "range", min: 0, max: run.grids.length - 1, value: run.grids.indexOf(step), "aria-valuetext": text });
  const shown = element("output", { htmlFor: id, textContent: number(step) });
  slider.addEventListener("input", () => {
    const at = run.grids[slider.value];
    if (at === newest) delete chosen[run.run];
    else chosen[run.run] = at;
    image.src = grid(run.run, at);
    shown.textContent = number(at);
    slider.setAttribute("aria-valuetext", word("gridof", { step: number(at) }));
  });
  const parts = [open];
  if (run.grids.length > 1) {
    const compare = button("compare", () => enlarge([run.grids[0], newest].map((at, place) => ({ source: grid(run.run, at), text: `${word(place ? "now" : "before")} · ${word("gridof", { step: number(at) })}`, about }))));
    parts.push(element("label", { htmlFor: id }, `${word("shownstep")} `, shown), slider, element("p", { className: "doors" }, compare));
  }
  if (about) parts.push(element("p", { className: "quiet", textContent: about }));
  return parts;
}

// Loss over steps; the whole in the colour of ink, parts of the interval in others.
function curve(run) {
  const lines = Object.entries(curves[run.run] || {}).filter(([, points]) => points.length);
  if (!lines.length) return element("p", { className: "quiet", textContent: word("nocurve") });
  const values = lines.flatMap(([, points]) => points.map(([, y]) => y)), low = Math.min(...values), high = Math.max(...values);
  const x = (step) => EDGE.left + (step / Math.max(run.steps, 1)) * (WIDTH - EDGE.left - EDGE.right);
  const y = (value) => EDGE.top + (1 - (value - low) / Math.max(high - low, 1e-9)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const drawing = svg("svg", { class: "curve", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${word("losscurve", { run: run.run })}: ${number(high, 3)} – ${number(low, 3)}` });
  for (const part of [0, 0.5, 1]) {
    const value = low + (high - low) * part, at = y(value);
    const text = svg("text", { x: EDGE.left - 6, y: at + 4, "text-anchor": "end" });
    text.textContent = number(value, 3);
    drawing.append(svg("line", { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: at, y2: at }), text);
  }
  for (const [step, anchor] of [[0, "start"], [run.steps, "end"]]) {
    const text = svg("text", { x: x(step), y: HEIGHT - 6, "text-anchor": anchor });
    text.textContent = number(step);
    drawing.append(text);
  }
  const names = lines.map(([name, points], place) => {
    const path = svg("path", { d: points.map(([step, value], first) => `${first ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("") });
    path.style.stroke = COLOURS[place % COLOURS.length];
    if (name === "loss") path.style.strokeWidth = 2.5;
    if (points.length === 1) {
      const dot = svg("circle", { cx: x(points[0][0]), cy: y(points[0][1]), r: 3 });
      dot.style.fill = COLOURS[place % COLOURS.length];
      drawing.append(dot);
    }
    drawing.append(path);
    const mark = element("span", { textContent: "━ ", "aria-hidden": "true" });
    mark.style.color = COLOURS[place % COLOURS.length];
    return element("span", {}, mark, name.split("/").at(-1));
  });
  return element("div", {}, drawing, element("div", { className: "legend" }, ...names));
}

function svg(tag, properties) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
  return made;
}

// Curves and captions are asked for again only where a run has gone on.
async function look() {
  try {
    const { trainings } = await ask("/api/trainings"), now = JSON.stringify(trainings);
    if (now !== answered || found.some((group) => group.runs.some(isLive))) {
      const before = Object.fromEntries((found || []).flatMap((group) => group.runs.map((run) => [run.run, run.step])));
      for (const run of trainings.flatMap((group) => group.runs)) {
        if (before[run.run] === run.step && curves[run.run]) continue;
        curves[run.run] = await ask(`/api/trainings/${encodeURIComponent(run.run)}/curves`);
        captions[run.run] = await ask(`/api/trainings/${encodeURIComponent(run.run)}/captions`);
      }
      const changed = now !== answered;
      [found, answered] = [trainings, now];
      if (changed) show();
    }
    complain("");
  } catch (error) {
    complain(error.message);
  }
  setTimeout(look, document.hidden ? 4 * EVERY_MS : EVERY_MS);
}

document.addEventListener("DOMContentLoaded", () => {
  whenSpoken(show);
  speak();
  look();
  ask("/api/overview").then(showDoor, () => {});
});
