"use strict";
// The first page: asks every few seconds what runs, and shows it.
const EVERY_MS = 5000, LOW_DISK = 5e9;
let found = null;

function show() {
  if (!found) return;
  showDoor(found);
  $("welcome").hidden = Boolean(found.stack);
  $("welcome").replaceChildren(spoken(word("nostack")));
  $("release").replaceChildren(...releaseShown());
  for (const name of ["flows", "parts"]) $(name).parentElement.hidden = !found.stack;
  $("flows").replaceChildren(...flowsShown());
  $("parts").replaceChildren(...partsShown());
  $("own").replaceChildren(...ownShown());
}

function releaseShown() {
  const { release, served, stack } = found;
  if (!release) {
    const doors = served ? [element("p", { className: "doors" }, element("a", { className: "main", href: stack.studio, textContent: word("opendraw") }))] : [];
    return [element("p", { textContent: word("norelease") }), element("p", { className: "quiet" }, spoken(word("firststep"))), ...doors];
  }
  const now = !served ? spoken(word("notserved")) : served.version === release.version ? word("servednow") : word("servedother", { version: served.version });
  const date = new Date(release.made_ms).toLocaleDateString(language === "zh" ? "zh-CN" : "en-GB", { dateStyle: "medium" });
  const text = word("releasepictures", { version: release.version });
  const sheet = element("img", { className: "sheet", src: `/api/release.png?v=${release.version}`, alt: text });
  const open = element("button", { type: "button", className: "plain" }, sheet);
  open.addEventListener("click", () => enlarge([{ source: sheet.src, text }]));
  sheet.addEventListener("error", () => open.remove());
  return [
    element("p", {}, element("strong", { textContent: word("release", release) }), " · ", now), open,
    element("p", { className: "quiet", textContent: word("madeon", { date, dataset: release.dataset, version: release.dataset_version }) }),
    element("p", { className: "doors" }, served && element("a", { className: "main", href: stack.studio, textContent: word("opendraw") }), element("a", { className: "door", href: release.page, textContent: word("inmlflow") })),
  ];
}

function flowsShown() {
  if (!found.stack) return [];
  if (!found.flows) return [element("p", { textContent: word("noflowsanswer") })];
  if (!found.flows.length) return [element("p", { className: "quiet", textContent: word("noflows") })];
  const kinds = { COMPLETED: "good", FAILED: "bad", CRASHED: "bad", RUNNING: "busy", PENDING: "busy", PAUSED: "busy" };
  const lines = found.flows.map((run) => element("li", {},
    element("a", { className: "name", href: run.page }, run.deployment || run.name, run.deployment ? element("small", { className: "quiet", textContent: ` ${run.name}` }) : ""),
    element("span", { className: "quiet", textContent: run.ended ? ago(Date.parse(run.ended)) : run.began ? ago(Date.parse(run.began)) : "" }),
    state(kinds[run.state] || "", word(run.state))));
  return [element("ul", { className: "parts" }, ...lines)];
}

function partsShown() {
  if (!found.stack) return [];
  const lines = found.parts.map((part) => element("li", {}, element("span", { className: "name", textContent: part.name }),
    part.address.startsWith("http") ? element("a", { href: part.address, textContent: new URL(part.address).host }) : element("span", { textContent: part.address }),
    part.answers ? state("good", word("answers")) : part.optional ? state("", word("notdeployed")) : state("bad", word("silent"))));
  const doors = ["prefect", "mlflow", "ray", ...(found.served ? ["studio", "api"] : [])].map((name) => element("a", { className: "door", href: found.stack[name], textContent: word(`open${name}`) }));
  const token = button("token", async () => {
    try {
      await copy((await askWithKey(() => ask("/api/ray-token"))).token, token);
    } catch (error) {
      if (error.status !== 401) complain(error.message);
    }
  });
  return [element("ul", { className: "parts" }, ...lines), element("p", { className: "doors" }, ...doors, token), element("p", { className: "quiet", textContent: word("tokenabout") })];
}

function ownShown() {
  const datasets = found.datasets.map((name) => element("li", {}, element("a", { className: "name", href: `/datasets/${encodeURIComponent(name)}`, textContent: name })));
  const shown = [datasets.length ? element("ul", { className: "parts" }, ...datasets) : element("p", { className: "quiet", textContent: word("nodatasets") })];
  shown.push(element("p", {}, found.trainings.length ? element("a", { href: "/training", textContent: word("lasttraining", { run: found.trainings[0] }) }) : word("notrainings")));
  if (found.disk) {
    const { free, total } = found.disk, text = word("diskfree", { free: number(free / 1e9), total: number(total / 1e9) });
    shown.push(element("label", {}, text, element("meter", { min: 0, max: total, value: total - free, high: total * 0.9 })));
    if (free < LOW_DISK) shown.push(element("p", { className: "fault" }, spoken(word("disklow"))));
  }
  shown.push(element("p", { className: "quiet", textContent: word("homeat", { place: found.home }) }));
  return shown;
}

// What has not changed stays as it is, so that nothing moves under a keyboard or a screen reader.
async function look() {
  try {
    const now = await ask("/api/overview");
    if (JSON.stringify(now) !== JSON.stringify(found)) { found = now; show(); }
    complain("");
  } catch (error) {
    complain(error.message);
  }
  setTimeout(look, document.hidden ? 4 * EVERY_MS : EVERY_MS);
}

document.addEventListener("DOMContentLoaded", () => { whenSpoken(show); speak(); look(); });
