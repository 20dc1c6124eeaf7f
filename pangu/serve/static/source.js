"use strict";
// The picture that a drawing starts from, and the mask over it: what is painted is drawn anew.
const Source = (() => {
  let bitmap = null, picture = null, mask = null, painted = false, cursor = null, last = null;
  const size = () => $("size").value.split("x").map(Number);
  const partner = () => (bitmap ? $("become").value : "");
  const canvas = (width, height) => Object.assign(document.createElement("canvas"), { width, height });

  // The middle of a picture, as large as what is drawn.
  function covered(image, width, height) {
    const made = canvas(width, height), scale = Math.max(width / image.width, height / image.height);
    const w = image.width * scale, h = image.height * scale, pen = made.getContext("2d");
    pen.fillStyle = "white";
    pen.fillRect(0, 0, width, height);
    pen.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
    return made;
  }

  async function take(file) {
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      complain(word("notapicture"), "image");
      return;
    }
    complain("");
    fit();
    $("source-chosen").hidden = false;
    $("source").open = true;
    choose();
  }

  // By the pair, which keeps the layout, or by a partner, which takes the picture for what it is about and needs no text.
  function choose(name = $("become").value) {
    $("become").value = name;
    $("varying").hidden = !partner();
    $("refining").hidden = $("source-clear").hidden = Boolean(partner());
    $("prompt").required = !partner();
    if (partner()) fit();
  }

  function offer(names) {
    const chosen = $("become").value;
    $("become").replaceChildren(new Option(word("refined"), ""), ...names.map((p) => new Option(word("variedby", { p }), p)));
    $("become").value = chosen;
    $("become-choice").hidden = names.length === 0;
  }

  function fit() {
    if (!bitmap) return;
    const [width, height] = size();
    picture = covered(bitmap, width, height);
    mask = canvas(width, height);
    painted = false;
    cursor = [width / 2, height / 2];
    Object.assign($("source-view"), { width, height });
    show();
  }

  function letGo() {
    bitmap = picture = mask = null;
    painted = false;
    $("source-chosen").hidden = true;
    $("source-file").value = "";
    choose("");
  }

  const radius = () => (Number($("brush").value) / 100) * Math.min(...size());

  function paint(x, y) {
    if (partner()) return;
    const pen = mask.getContext("2d");
    Object.assign(pen, { lineCap: "round", lineWidth: 2 * radius(), strokeStyle: "black" });
    pen.beginPath();
    pen.moveTo(...(last || [x, y]));
    pen.lineTo(x, y + 0.01);
    pen.stroke();
    last = [x, y];
    painted = true;
    show();
  }

  function show() {
    const view = $("source-view"), pen = view.getContext("2d"), tinted = canvas(view.width, view.height), ink = tinted.getContext("2d");
    ink.drawImage(mask, 0, 0);
    ink.globalCompositeOperation = "source-in";
    ink.fillStyle = "#b3341f";
    ink.fillRect(0, 0, view.width, view.height);
    pen.drawImage(picture, 0, 0);
    pen.globalAlpha = 0.6;
    pen.drawImage(tinted, 0, 0);
    pen.globalAlpha = 1;
    if (document.activeElement === view && !partner()) {
      pen.strokeStyle = "#b3341f";
      pen.beginPath();
      pen.arc(...cursor, radius(), 0, 2 * Math.PI);
      pen.stroke();
    }
  }

  function at(event) {
    const view = $("source-view"), box = view.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * view.width, ((event.clientY - box.top) / box.height) * view.height];
  }

  const data = (of) => of.toDataURL("image/png");

  // A mask as OpenAI has it: transparent is what is edited.
  function maskOf() {
    const made = canvas(mask.width, mask.height), pen = made.getContext("2d");
    pen.fillRect(0, 0, made.width, made.height);
    pen.globalCompositeOperation = "destination-out";
    pen.drawImage(mask, 0, 0);
    return data(made);
  }

  function listen() {
    const view = $("source-view");
    $("source-file").addEventListener("change", () => { if ($("source-file").files[0]) take($("source-file").files[0]); });
    $("size").addEventListener("change", fit);
    $("source-away").addEventListener("click", letGo);
    $("become").addEventListener("change", () => choose());
    $("source-clear").addEventListener("click", fit);
    view.addEventListener("pointerdown", (event) => { view.setPointerCapture(event.pointerId); last = null; paint(...at(event)); });
    view.addEventListener("pointermove", (event) => { if (event.buttons) paint(...at(event)); });
    for (const name of ["focus", "blur"]) view.addEventListener(name, show);
    view.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (move) { cursor = cursor.map((one, axis) => Math.min(Math.max(one + move[axis] * Math.max(1, radius() / 2), 0), [view.width, view.height][axis])); show(); }
      else if (event.key === " ") { last = null; paint(...cursor); }
      else return;
      event.preventDefault();
    });
    const isFile = (moved) => [...(moved?.items || [])].some((one) => one.kind === "file");
    document.addEventListener("dragover", (event) => { if (isFile(event.dataTransfer)) event.preventDefault(); });
    for (const [name, of] of [["drop", (event) => event.dataTransfer], ["paste", (event) => event.clipboardData]]) {
      document.addEventListener(name, (event) => {
        const file = [...(of(event)?.files || [])].find((one) => one.type.startsWith("image/"));
        if (!file) return;
        event.preventDefault();
        take(file);
      });
    }
  }

  return {
    listen, take, letGo, choose, offer,
    // {image, mask, strength, partner} with data: URLs, or null where there is none.
    asked() {
      if (!bitmap) return null;
      if (partner()) return { image: data(picture), partner: partner(), strength: Number($("share").value) };
      return { image: data(picture), mask: painted ? maskOf() : null, strength: Number($("change").value) };
    },
  };
})();

// The file in a data: URL; the page's policy lets nothing fetch one.
function blobOf(url) {
  const [head, text] = url.split(","), bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  return new Blob([bytes], { type: head.slice(5).split(";")[0] });
}
