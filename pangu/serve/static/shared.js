"use strict";
// What every page needs: both languages, elements made without markup, questions to the server, and the key of whoever has one.
const $ = (id) => document.getElementById(id);
let language = localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en");
const listeners = [];

const word = (name, values = {}) => (WORDS[language][name] ?? name).replace(/\{(\w+)\}/g, (_, key) => values[key]);
const number = (value, digits = 0) => Number(value).toLocaleString(language === "zh" ? "zh-CN" : "en", { maximumFractionDigits: digits });

// Called whenever the language changes, and once at first.
function whenSpoken(act) { listeners.push(act); }

function speak() {
  document.documentElement.lang = language;
  for (const part of document.querySelectorAll("[data-word]")) part.textContent = word(part.dataset.word);
  for (const part of document.querySelectorAll("[data-hint]")) part.placeholder = word(part.dataset.hint);
  for (const part of document.querySelectorAll("[data-label]")) part.setAttribute("aria-label", word(part.dataset.label));
  if (document.body.dataset.title) document.title = word(document.body.dataset.title);
  for (const act of listeners) act();
}

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

function button(name, act, properties = {}) {
  const made = element("button", { type: "button", textContent: word(name), ...properties });
  made.dataset.word = name;
  made.addEventListener("click", act);
  return made;
}

// Text in which what stands between backquotes is a command.
function spoken(text) {
  return element("span", {}, ...text.split("`").map((part, place) => (place % 2 ? element("code", { textContent: part }) : part)));
}

// A picture as large as the window, in a dialog that Escape closes; others are beside it where several are given.
function enlarge(pictures) {
  const shown = pictures.map(({ source, text, about }) => {
    const image = element("img", { src: source, alt: text });
    const figure = element("figure", {}, image, element("figcaption", {}, text, about ? element("small", { textContent: about }) : ""));
    image.addEventListener("load", () => figure.classList.toggle("strip", image.naturalWidth > 2 * image.naturalHeight));
    return figure;
  });
  const closing = button("close", () => dialog.close());
  const dialog = element("dialog", { className: "large" }, element("div", { className: "beside" }, ...shown), closing);
  dialog.setAttribute("aria-label", pictures.map((one) => one.text).join(" · ").slice(0, 120));
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.body.append(dialog);
  dialog.showModal();
  closing.focus();
  return dialog;
}

async function copy(text, where) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    done = false;
  }
  const before = where.dataset.word;
  where.textContent = word(done ? "copied" : "notcopied");
  setTimeout(() => { where.textContent = word(before); }, 1500);
}

class Refused extends Error {
  constructor(message, param, status) { super(message); Object.assign(this, { param, status }); }
}

// The answer of the server as JSON; a Refused with its sentence where it refuses.
async function ask(path, options = {}) {
  const key = localStorage.getItem("key"), headers = { ...(key ? { Authorization: `Bearer ${key}` } : {}), ...(options.headers || {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(word("lost"), null, 0);
  }
  if (answer.ok) return answer.json();
  const error = await answer.json().then((found) => found.error, () => ({ message: `${answer.status}` }));
  throw new Refused(error.message, error.param, answer.status);
}

const post = (path, body, options = {}) => ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), ...options });

// The same, and where the key is missing or wrong the person is asked for it, once more each time.
async function askWithKey(question) {
  for (;;) {
    try {
      return await question();
    } catch (error) {
      if (error.status !== 401 || !(await keyFromPerson())) throw error;
    }
  }
}

function keyFromPerson() {
  return new Promise((settle) => {
    const field = element("input", { id: "own-key", type: "password", autocomplete: "off", required: true });
    const form = element("form", { method: "dialog" }, element("h2", { textContent: word("keytitle") }), element("p", {}, spoken(word("keyabout"))),
      element("label", { htmlFor: "own-key", textContent: word("key") }), field,
      element("div", { className: "row" }, element("button", { className: "main", value: "yes", textContent: word("goon") }), button("cancel", () => dialog.close())));
    const dialog = element("dialog", { className: "small" }, form);
    dialog.setAttribute("aria-label", word("keytitle"));
    dialog.addEventListener("close", () => {
      if (dialog.returnValue === "yes") localStorage.setItem("key", field.value.trim());
      dialog.remove();
      settle(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

// `pangu up` prints the address with the key behind its '#', which no browser sends anywhere.
if (location.hash.startsWith("#key=")) {
  localStorage.setItem("key", decodeURIComponent(location.hash.slice(5)));
  history.replaceState(null, "", location.pathname + location.search);
}
document.addEventListener("DOMContentLoaded", () => {
  $("language").addEventListener("click", () => { language = language === "en" ? "zh" : "en"; localStorage.setItem("language", language); speak(); });
});
