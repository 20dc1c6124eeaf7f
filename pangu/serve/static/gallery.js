"use strict";
// Pictures that were drawn, kept by the browser until somebody deletes them.
const Gallery = (() => {
  const MOST = 200;
  let database = null, first = null, last = null;

  const done = (asked) => new Promise((settle, fail) => { asked.onsuccess = () => settle(asked.result); asked.onerror = () => fail(asked.error); });
  const store = (mode) => database.transaction("pictures", mode).objectStore("pictures");

  // Once it is on the disk: whoever leaves the page before then would lose the change.
  const written = (change) => new Promise((settle, fail) => {
    const own = store("readwrite"), work = own.transaction, asked = change(own);
    work.oncomplete = () => settle(asked.result);
    work.onabort = () => fail(work.error);
  });

  // What was kept before; a browser that keeps nothing costs the keeping alone.
  async function open() {
    try {
      const asked = indexedDB.open("pangu-studio", 1);
      asked.onupgradeneeded = () => asked.result.createObjectStore("pictures", { keyPath: "id", autoIncrement: true });
      database = await done(asked);
      for (const kept of await done(store("readonly").getAll())) add(kept);
    } catch {
      database = null;
    }
    tell();
  }

  async function keep(record) {
    const { id, ...own } = record;
    try {
      record.id = await written((pictures) => pictures.add(own));
      const ids = await done(store("readonly").getAllKeys());
      for (const old of ids.slice(0, Math.max(0, ids.length - MOST))) await written((pictures) => pictures.delete(old));
    } catch {
      database = null;
    }
    tell();
  }

  function tell() {
    const none = !$("gallery").children.length;
    $("empty").hidden = !none;
    $("remove-all").hidden = none;
    $("storage").dataset.word = database ? "stays" : "notstored";
    $("storage").textContent = word($("storage").dataset.word);
    $("storage").hidden = none;
    placeProposals(none);
  }

  function facts({ event, body }) {
    const asked = event.request, walked = asked.num_inference_steps, each = (values) => [...new Set(values)].join("/");
    const steps = typeof walked === "object" ? Object.values(walked).join("+") : each([walked, asked.texture?.num_inference_steps ?? walked]);
    const scales = Object.values(asked.guidance_scale ?? {});
    const guidance = scales.length > 2 ? scales.join("/") : each([half(asked.guidance_scale, "structure"), asked.texture?.guidance_scale ?? half(asked.guidance_scale, "texture")]);
    const v = event.release.pair_version, by = v ? word("byrelease", { v }) : word("byfolder");
    const said = [word("facts", { by, size: event.size, steps, guidance, seed: event.seed })];
    for (const [name, scale] of Object.entries(body.texture?.style || body.style || {})) said.push(word("style", { name: scale === 1 ? name : `${name} ${scale}` }));
    if (body.edit) said.push(word(body.edit.partner ? "varied" : "edited", { p: body.edit.partner, s: body.edit.strength }));
    return said.join(language === "zh" ? "，" : ", ");
  }

  const textOf = ({ event, body }) => event.revised_prompt || saidIn(body);
  const shown = (record) => ({ source: record.source, text: textOf(record), about: facts(record) });

  function add(record) {
    const { event, body, source } = record, text = textOf(record);
    const picture = element("img", { src: source, alt: text }), large = element("button", { type: "button", className: "plain" }, picture);
    large.addEventListener("click", () => enlarge([shown(record)]));
    const about = element("small", { textContent: facts(record) }), caption = element("figcaption", {}, text, about);
    whenSpoken(() => { about.textContent = facts(record); });
    if (unread(event)) caption.append(element("small", { className: "unread", textContent: unread(event) }));
    const copying = button("copyfacts", () => copy(`${text}: ${facts(record)}`, copying));
    const link = element("a", { href: source, download: `pangu-${event.seed}.${event.output_format}`, textContent: word("save") });
    link.dataset.word = "save";
    const comparing = button("compare", () => compare(record, comparing));
    const more = element("details", {}, element("summary", { textContent: word("others") }), element("div", {},
      button("startfrom", async () => { letGo(); await Source.take(blobOf(source)); $("source").scrollIntoView({ block: "center" }); }), comparing,
      button("remove", () => remove(record, figure))));
    more.firstChild.dataset.word = "others";
    const buttons = element("div", {}, button("reuse", () => reuse(body, event)), !body.coop && !body.edit && button("keep", () => keepOf(body, event)), link, copying);
    for (const child of [...buttons.childNodes]) if (child.nodeType === Node.TEXT_NODE) child.remove();
    const figure = element("figure", {}, large, caption, buttons, more);
    $("gallery").prepend(figure);
    return figure;
  }

  function compare(record, pressed) {
    if (first && first.record !== record) {
      enlarge([shown(first.record), shown(record)]);
      unmark();
    } else if (first) {
      unmark();
    } else {
      first = { record, pressed };
      for (const one of document.querySelectorAll("#gallery [data-word=compare]")) if (one !== pressed) one.textContent = word("compare");
      pressed.setAttribute("aria-pressed", "true");
      pressed.textContent = word("compareother");
      for (const one of document.querySelectorAll("#gallery details")) one.open = true;
    }
  }

  function unmark() {
    first.pressed.removeAttribute("aria-pressed");
    first.pressed.textContent = word("compare");
    first = null;
    for (const one of document.querySelectorAll("#gallery details")) one.open = false;
  }

  // A picture is gone from the page once it is gone from the disk.
  async function forget(change) {
    try {
      if (database) await written(change);
    } catch {
      database = null;
    }
  }

  async function remove(record, figure) {
    await record.kept;
    if (record.id) await forget((pictures) => pictures.delete(record.id));
    const next = figure.nextElementSibling || figure.previousElementSibling;
    if (first?.record === record) unmark();
    figure.remove();
    tell();
    (next?.querySelector("button") || $("prompt")).focus();
  }

  function listen() {
    $("remove-all").addEventListener("click", async () => {
      if (!confirm(word("reallyall"))) return;
      await last;
      await forget((pictures) => pictures.clear());
      first = null;
      $("gallery").replaceChildren();
      tell();
      $("prompt").focus();
    });
  }

  function remember(record) {
    const figure = add(record);
    record.kept = last = keep(record).then(() => { figure.dataset.kept = String(Boolean(database)); });
    return record.kept;
  }

  return { open, listen, tell, remember };
})();
