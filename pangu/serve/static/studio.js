"use strict";
// The page: a form, what waits to be drawn, and the picture that is being drawn. Talks to /v1 of the server that it came from.
let model = null, running = null, kept = null, shownRelease = null;
const queue = [];
const NARROW = matchMedia("(max-width: 46rem)");
const PARTIALS = 3;

whenSpoken(() => {
  if (shownRelease) showRelease(shownRelease);
  nameBetween();
  $("state").textContent = "";
  propose();
  if (model) Source.offer(model.varying_partners);
  Gallery.tell();
});

// A few texts that the pair draws, in the language of the page, every other one in a style; what is pressed is asked for.
function propose() {
  const texts = (model && model.prompts && model.prompts[language]) || [];
  const few = [...texts].sort(() => Math.random() - 0.5).slice(0, 6);
  $("proposed").hidden = few.length === 0;
  for (const old of $("proposed").querySelectorAll("button")) old.remove();
  few.forEach((text, place) => {
    const style = (place % 2 && model.styles.length) ? model.styles[Math.floor(Math.random() * model.styles.length)] : "";
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
    if (style) button.append(Object.assign(document.createElement("small"), { textContent: ` ${style}` }));
    button.addEventListener("click", () => {
      $("prompt").value = text;
      setStyles(style ? { [style]: 1 } : {});
      if ($("beside-empty").contains(button)) $("form").requestSubmit();
      else $("prompt").focus();
    });
    $("proposed").append(button);
  });
  placeProposals();
}

// Where nothing is drawn yet, the proposals stand in the place of the pictures, and one press draws; on a phone that is far below.
function placeProposals(none = !$("gallery").children.length) {
  const inside = none && !NARROW.matches;
  $(inside ? "beside-empty" : "beside-prompt").append($("proposed"));
  $("empty-words").dataset.word = inside && !$("proposed").hidden ? "empty" : "emptyplain";
  $("empty-words").textContent = word($("empty-words").dataset.word);
  $("proposed").firstElementChild.hidden = inside;
}

function showRelease(release) {
  shownRelease = release;
  const middles = Object.entries(release.middle_versions || {}).map((each) => each.join(" "));
  const names = { v: release.pair_version, a: release.structure_version, b: [release.texture_version, ...middles].join(language === "zh" ? "，" : ", ") };
  $("release").textContent = word("release", names);
}

function headers() {
  return $("key").value ? { Authorization: `Bearer ${$("key").value}` } : {};
}

async function load() {
  try {
    const answer = await fetch("/v1/models");
    model = (await answer.json()).data[0];
  } catch {
    return complain(word("lost"));
  }
  if (model.pair_version === null) {
    $("release").textContent = word("loading");
    setTimeout(load, 1000);
    return;
  }
  $("size").replaceChildren(...model.sizes.map((size) => new Option(size)));
  set("steps", model.num_inference_steps);
  set("guidance", model.guidance_scale);
  set("texture-guidance", model.texture_guidance ?? "");
  set("strength", 0.5);
  $("styles").hidden = model.styles.length === 0;
  $("style-choice").replaceChildren(...["", ...model.styles].map(chip));
  $("style-mix").replaceChildren(...model.styles.flatMap((style) => slider(`style-${style}`, style)));
  setStyles({});
  showRelease(model);
  $("enhance-choice").hidden = !model.enhances;
  $("windows-choice").hidden = !model.reads_windows;
  $("loras").hidden = model.loras.length === 0;
  $("lora-mix").replaceChildren(...model.loras.flatMap((name) => slider(`lora-${name}`, name, 2)));
  $("coop").hidden = model.partners.length === 0;
  for (const name of model.partners) $("partners").append(choice(name));
  Source.offer(model.varying_partners);
  $("between").replaceChildren(...between().map(expert));
  nameBetween();
  speak();
}

// Experts between structure and texture, where the pair has such.
const between = () => model?.experts_between || [];

// Steps and guidance of one of them.
function expert(role) {
  const fields = [["steps", "expertsteps", { min: 1, max: 200 }], ["guidance", "expertguidance", { min: 0, max: 50, step: 0.5 }]];
  return element("div", { className: "row" }, ...fields.map(([id, name, bounds]) => {
    const input = element("input", { id: `${role}-${id}`, type: "number", ...bounds }), label = element("label", { htmlFor: input.id });
    Object.assign(label.dataset, { expert: role, says: name });
    input.dataset.hint = "asabove";
    return element("div", {}, label, input);
  }));
}

function nameBetween() {
  for (const label of document.querySelectorAll("[data-expert]")) label.textContent = word(label.dataset.says, { name: label.dataset.expert });
  for (const role of between()) Object.assign(FIELDS, { [`num_inference_steps.${role}`]: `${role}-steps`, [`guidance_scale.${role}`]: `${role}-guidance` });
}

function slider(id, text, most = 5) {
  const label = document.createElement("label"), value = document.createElement("output"), input = document.createElement("input");
  Object.assign(input, { id, type: "range", min: 0, max: most, step: 0.25, value: 0 });
  Object.assign(value, { id: `${id}-value`, value: 0 });
  label.htmlFor = id;
  label.append(`${text} `, value);
  return [label, input];
}

function choice(name) {
  const label = document.createElement("label"), input = document.createElement("input");
  Object.assign(input, { type: "checkbox", name: "partner", value: name });
  label.className = "check";
  label.append(input, name);
  return label;
}

// One style of the picker; the first, without a name, is the pair's own way of drawing.
function chip(style) {
  const label = document.createElement("label"), input = document.createElement("input"), text = document.createElement("span");
  Object.assign(input, { type: "radio", name: "style", value: style });
  if (style) text.textContent = style;
  else text.dataset.word = "plain";
  input.addEventListener("change", () => setStyles(style ? { [style]: 1 } : {}));
  label.append(input, text);
  return label;
}

// Scales of styles, in the sliders and the picker: a mixture is none of its choices.
function setStyles(scales) {
  for (const name of model.styles) set(`style-${name}`, scales[name] || 0);
  pick();
}

function pick() {
  const used = Object.keys(styles());
  for (const input of document.querySelectorAll("[name=style]")) input.checked = used.length < 2 && input.value === (used[0] || "");
}

function set(id, value) {
  $(id).value = value;
  const output = $(`${id}-value`);
  if (output) output.value = $(id).value;
}

function styles() {
  const found = {};
  for (const name of model.styles) if (Number($(`style-${name}`).value)) found[name] = Number($(`style-${name}`).value);
  return found;
}

// An adapter weighs as much on both halves, where it has a part for both.
function loras() {
  return model.loras.map((name) => ({ name, weight: Number($(`lora-${name}`).value) })).filter((each) => each.weight);
}

// What the form asks for. With a kept layout, that of the layout, and the form for the texture half.
async function asked() {
  const own = {
    prompt: $("prompt").value, size: $("size").value, n: Number($("count").value), seed: Number($("seed").value),
    num_inference_steps: halves("steps"), guidance_scale: halves("guidance"), style: styles(),
  };
  if ($("negative").value) own.negative_prompt = $("negative").value;
  if (loras().length) own.loras = loras();
  if ($("enhance").checked) own.enhance = true;
  if ($("windows").checked) own.long_prompts = "windows";
  if ($("scheduler").value) own.scheduler = $("scheduler").value;
  const from = Source.asked();
  if (from) return { ...own, edit: from };
  const partners = [...document.querySelectorAll("[name=partner]:checked")].map((each) => each.value);
  // A cooperation is guided by one number.
  if (partners.length) Object.assign(own, { coop: await cooperation(partners), guidance_scale: Number($("guidance").value) });
  if (!kept) return own;
  const texture = { prompt: own.prompt, style: own.style, guidance_scale: half(own.guidance_scale, "texture") };
  if (own.negative_prompt) texture.negative_prompt = own.negative_prompt;
  const layout = { ...kept, guidance_scale: half(kept.guidance_scale, "structure") };
  if (between().some((role) => own.guidance_scale[role] !== undefined)) {
    layout.guidance_scale = { ...own.guidance_scale, structure: layout.guidance_scale };
    delete texture.guidance_scale;
  }
  if (typeof kept.num_inference_steps === "object") layout.num_inference_steps = { ...kept.num_inference_steps, ...below(own.num_inference_steps) };
  else texture.num_inference_steps = Number($("steps").value);
  return { ...layout, texture };
}

// One number for all experts of the pair, or one each where one below structure has its own.
function halves(id) {
  const all = Number($(id).value), roles = [...between(), "texture"], own = roles.map((role) => [role, $(`${role}-${id}`).value]);
  if (!own.some(([, value]) => value)) return all;
  // Guidance that is left out is texture's; steps are needed of each.
  return Object.fromEntries([["structure", all], ...own.filter(([role, value]) => value || id === "steps" || role === "texture").map(([role, value]) => [role, Number(value || all)])]);
}

// What is said of the experts below structure.
const below = (value) => Object.fromEntries([...between(), "texture"].map((role) => [role, half(value, role)]));

const half = (value, role) => value?.[role] ?? value;

const saidIn = (body) => body.texture?.prompt || body.prompt || word("variation");

async function cooperation(partners) {
  const coop = { partners, strength: Number($("strength").value) / partners.length };
  const file = $("control").files[0];
  if (file) coop.control_image = await pngOf(file);
  return coop;
}

// The chosen file as a PNG of the size that is drawn.
async function pngOf(file) {
  const [width, height] = $("size").value.split("x").map(Number);
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(await createImageBitmap(file), 0, 0, width, height);
  return canvas.toDataURL("image/png").split(",")[1];
}

// What the form asks for takes its place behind what is drawn.
async function submit() {
  if (!$("lock").checked && !kept) set("seed", Math.floor(Math.random() * 2 ** 32));
  complain("");
  queue.push(await asked());
  showQueue();
  $("empty").hidden = true;
  if (NARROW.matches) $("now").parentElement.scrollIntoView({ block: "start" });
  if (!running) await drawAll();
  Gallery.tell();
}

async function drawAll() {
  while (queue.length) {
    const body = queue.shift();
    showQueue();
    await draw(body);
  }
}

function showQueue() {
  $("queue").hidden = queue.length === 0;
  $("queue").replaceChildren(...queue.map((body) => element("li", {},
    element("span", { className: "name", textContent: word("waiting", { text: saidIn(body) }) }),
    button("takeout", () => { queue.splice(queue.indexOf(body), 1); showQueue(); $("prompt").focus(); }))));
}

async function draw(body) {
  running = new AbortController();
  $("stop").disabled = false;
  $("state").textContent = word("drawing");
  $("now").replaceChildren();
  $("unread").hidden = true;
  $("progress").removeAttribute("value");
  $("progress").hidden = false;
  try {
    const answer = await (body.edit ? edited(body) : generated(body));
    if (!answer.ok) throw refusal((await answer.json()).error);
    for await (const event of events(answer.body)) take(event, body);
  } catch (error) {
    $("state").textContent = error.name === "AbortError" ? word("stopped") : "";
    const param = body.edit?.partner && error.param?.startsWith("coop") ? "become" : error.param;
    if (error.name !== "AbortError") complain(error instanceof TypeError ? word("lost") : error.message, param);
  }
  running = null;
  $("progress").hidden = true;
  $("stop").disabled = true;
}

const refusal = ({ message, param, code }) => new Refused(message, code === "invalid_api_key" ? "key" : param, 400);

const generated = (body) => fetch("/v1/images/generations", {
  method: "POST", signal: running.signal, headers: { "Content-Type": "application/json", ...headers() },
  body: JSON.stringify({ ...body, stream: true, partial_images: PARTIALS }),
});

// A picture, and perhaps a mask, as OpenAI's edits and variations take them: files of a form.
async function edited({ edit, ...own }) {
  const form = new FormData(), { image, mask, strength, partner } = edit;
  const how = partner ? { coop: { partners: [partner], strength } } : { strength };
  for (const [name, value] of Object.entries({ ...own, ...how, stream: true, partial_images: PARTIALS })) if (value !== "") form.append(name, typeof value === "string" ? value : JSON.stringify(value));
  form.append("image", blobOf(image), "image.png");
  if (mask) form.append("mask", blobOf(mask), "mask.png");
  return fetch(`/v1/images/${partner ? "variations" : "edits"}`, { method: "POST", signal: running.signal, headers: headers(), body: form });
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) yield JSON.parse(part.split("\n").find((line) => line.startsWith("data: ")).slice(6));
  }
}

function take(event, body) {
  if (event.error) throw refusal(event.error);
  const source = `data:image/${event.output_format};base64,${event.b64_json}`;
  let picture = $("now").children[event.image_index];
  if (!picture) {
    picture = document.createElement("img");
    // On a phone the picture lies below the form: there it comes into sight as soon as it has a height.
    if (NARROW.matches && event.image_index === 0) picture.addEventListener("load", () => $("now").scrollIntoView({ block: "start" }), { once: true });
    $("now").append(picture);
  }
  picture.src = source;
  picture.alt = saidIn(body);
  $("unread").textContent = unread(event);
  $("unread").hidden = !$("unread").textContent;
  if (event.type.endsWith("partial_image")) {
    $("state").textContent = `${word("step")} ${event.partial_image_index + 1}`;
    $("progress").value = (event.partial_image_index + 1) / (PARTIALS + 1);
    return;
  }
  showRelease(event.release);
  $("state").textContent = word("done", { s: event.seconds.total.toFixed(2) }) + (event.structure_cached ? ` · ${word("cached")}` : "");
  const { b64_json, ...facts } = event;
  Gallery.remember({ source, event: facts, body });
}

// While somebody types: what of the texts would not be read, asked for once the typing rests.
let typing = null;
function typed() {
  clearTimeout(typing);
  typing = setTimeout(async () => {
    const asked = { prompt: $("prompt").value, style: styles() };
    if ($("negative").value) asked.negative_prompt = $("negative").value;
    if ($("windows").checked) asked.long_prompts = "windows";
    try {
      const answer = await fetch("/v1/prompts/check", { method: "POST", headers: { "Content-Type": "application/json", ...headers() }, body: JSON.stringify(asked) });
      $("typed").textContent = answer.ok && asked.prompt === $("prompt").value ? unread(await answer.json()) : "";
    } catch {
      $("typed").textContent = "";
    }
    $("typed").hidden = !$("typed").textContent;
  }, 400);
}

// What of the texts was too long to be read or is unknown, in a sentence each; nothing if there is no such thing.
function unread(event) {
  const texts = new Set((event.unread || []).map((cut) => `${cut.param}: “…${cut.text}”`));
  const words = (event.unknown || []).flatMap((text) => text.words);
  return [texts.size && word("unread", { t: [...texts].join(" ") }), words.length && word("unknown", { w: words.slice(0, 8).join(" · ") })]
    .filter(Boolean).join(" ");
}

function reuse(body, event) {
  letGo();
  const own = { ...body, ...(body.texture || {}) };
  set("prompt", own.prompt);
  set("negative", own.negative_prompt || "");
  set("size", body.size);
  for (const [id, name] of [["steps", "num_inference_steps"], ["guidance", "guidance_scale"]]) {
    set(id, half(own[name], "structure"));
    for (const role of [...between(), "texture"]) set(`${role}-${id}`, typeof own[name] === "object" ? own[name][role] ?? "" : "");
  }
  set("seed", event.seed);
  set("scheduler", body.scheduler || "");
  setStyles(own.style || {});
  for (const name of model.loras) set(`lora-${name}`, (body.loras || []).find((each) => each.name === name)?.weight || 0);
  $("lock").checked = true;
  if (body.texture) keepLayout(body, event);
  Source.letGo();
  if (body.edit) {
    set(body.edit.partner ? "share" : "change", body.edit.strength);
    Source.take(blobOf(body.edit.image)).then(() => Source.choose(body.edit.partner || ""));
  }
  $("prompt").focus();
}

function keepOf(body, event) {
  reuse(body, event);
  keepLayout(body, event);
}

function keepLayout(body, event) {
  const { texture, ...layout } = body;
  kept = { ...layout, seed: event.seed, n: 1 };
  $("kept").hidden = false;
}

function letGo() {
  kept = null;
  $("kept").hidden = true;
}

// Which field a parameter of the API comes from.
const FIELDS = {
  prompt: "prompt", negative_prompt: "negative", size: "size", n: "count", num_inference_steps: "steps", guidance_scale: "guidance", seed: "seed", style: "styles",
  scheduler: "scheduler", loras: "loras", enhance: "enhance", long_prompts: "windows", "coop.control_image": "control", coop: "coop", "coop.partners": "coop", "coop.strength": "strength",
  image: "source-file", mask: "source-view", strength: "change", become: "become", key: "key", "texture.num_inference_steps": "texture-steps", "texture.guidance_scale": "texture-guidance",
};

// An error stands where its fault is: behind the field that the server names, which is marked; else at the end of the form.
function complain(message, param) {
  for (const marked of document.querySelectorAll("#form [aria-invalid]")) { marked.removeAttribute("aria-invalid"); marked.removeAttribute("aria-errormessage"); }
  const field = message && param ? $(FIELDS[param] || FIELDS[param.split(".")[0]]) : null;
  if (field) {
    for (let outer = field; outer; outer = outer.parentElement) if (outer.tagName === "DETAILS") outer.open = true;
    field.closest("#form > *").after($("error"));
    if (field.matches("input, select, textarea")) { field.setAttribute("aria-invalid", "true"); field.setAttribute("aria-errormessage", "error"); }
  } else {
    $("form").append($("error"));
  }
  $("error").textContent = message;
  $("error").hidden = !message;
  if (message && NARROW.matches) $("error").scrollIntoView({ block: "center" });
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
$("form").addEventListener("input", (event) => { const output = $(`${event.target.id}-value`); if (output) output.value = event.target.value; });
$("style-mix").addEventListener("input", pick);
for (const id of ["prompt", "negative", "windows"]) $(id).addEventListener("input", typed);
$("stop").addEventListener("click", () => running?.abort());
$("release-layout").addEventListener("click", letGo);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("form").requestSubmit(); }
});
// The pages of the stack, where one serves this.
async function findHome() {
  const { home } = await ask("/studio/home.json").catch(() => ({ home: null }));
  $("home").hidden = !home;
  if (home) $("home").href = home;
}

document.addEventListener("DOMContentLoaded", () => {
  Source.listen();
  Gallery.listen();
  speak();
  load();
  Gallery.open();
  findHome();
});
