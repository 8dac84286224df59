// The dashboard's own script: live pages, tips of plots, keys, bulk actions. Every page works
// without it; it only spares reloads.
"use strict";

const body = document.body;
const base = body.dataset.base;
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const FRAGMENT = { "X-Fragment": "1" };

// Times: the server writes UTC, the reader sees the time of the place.
const two = (number) => String(number).padStart(2, "0");
function localTime(element) {
  const at = new Date(element.dateTime);
  if (Number.isNaN(at.getTime())) return;
  const minute = `${two(at.getHours())}:${two(at.getMinutes())}`;
  const form = element.dataset.form;
  let text = minute;
  if (form === "clock") text = `${minute}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;
  if (form === "date") text = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${minute}:${two(at.getSeconds())}`;
  if (element.textContent !== text) element.textContent = text;
}
function span(seconds) {
  seconds = Math.max(0, seconds);
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  for (const [size, unit, lessSize, less] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
    if (whole >= size) {
      const rest = Math.floor((whole % size) / lessSize);
      return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${less}` : ""}`;
    }
  }
  return `${whole} s`;
}
// What the server's clock is ahead of ours, so that a running time is right on a wrong clock.
let ahead = 0;
function setClock(root) {
  const now = $("[data-now]", root);
  if (now) ahead = Date.parse(now.dataset.now) - Date.now();
}
function tick(root = document) {
  const now = Date.now() + ahead;
  for (const element of $$("[data-since]", root)) {
    const text = span((now - Date.parse(element.dataset.since)) / 1000);
    if (element.textContent !== text) element.textContent = text;
  }
}
function polish(root = document) {
  $$("time[data-form]", root).forEach(localTime);
  tick(root);
}

// Morphing: make what is shown like what came, and touch nothing else: focus, selection, the row
// that the keys are at, open details and the scroll position stay.
const KEPT = new Set(["open", "checked", "value", "data-chosen", "data-here"]);
const keyOf = (node) => (node.nodeType === 1 ? node.id || node.dataset?.key || "" : "");
function morph(old, fresh) {
  for (const { name, value } of [...fresh.attributes]) {
    if (!KEPT.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!KEPT.has(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  if (old.tagName === "PROGRESS") old.value = Number(fresh.getAttribute("value") || 0);
  if (!/^(INPUT|SELECT|TEXTAREA)$/.test(old.tagName)) morphChildren(old, fresh);
}
function morphChildren(old, fresh) {
  const keyed = new Map();
  for (const node of old.childNodes) if (keyOf(node)) keyed.set(keyOf(node), node);
  const wanted = new Set([...fresh.childNodes].map(keyOf).filter(Boolean));
  let place = old.firstChild;
  for (const next of [...fresh.childNodes]) {
    const key = keyOf(next);
    let match = key ? keyed.get(key) : place;
    if (match && (match.nodeType !== next.nodeType || match.nodeName !== next.nodeName || keyOf(match) !== key)) match = null;
    if (!match) {
      old.insertBefore(document.importNode(next, true), place);
      continue;
    }
    if (key) place = cleared(place, match, wanted);
    if (match !== place) old.insertBefore(match, place);
    else place = place.nextSibling;
    if (match.nodeType === 1) morph(match, next);
    else if (match.nodeValue !== next.nodeValue) match.nodeValue = next.nodeValue;
  }
  removeUntil(place, null);
}
function removeUntil(place, end) {
  while (place !== end) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
  return end;
}
// Who stays is not moved for the sake of those who go: a click that has begun there would be lost.
function cleared(place, match, wanted) {
  for (let node = place; node !== match; node = node.nextSibling) {
    if (!node || wanted.has(keyOf(node))) return place;
  }
  return removeUntil(place, match);
}

// Live: the server tells that something has changed, and the page fetches itself again, at most
// once a second (the overview, every two), and never while it is hidden or paused.
const live = { source: null, timer: 0, last: 0, busy: false, paused: false, failed: 0 };
const PAUSE = Number(body.dataset.pace || 1000);
const WITHOUT_EVENTS = 5000;
const LAST_EVENTS = ["result", "gone"];
const EVENTS = ["overview", "tasks", "reset", "attempt", "log", "progress", "state", ...LAST_EVENTS];
const button = $("#live");

async function refresh() {
  clearTimeout(live.timer);
  live.timer = 0;
  if (live.busy || document.hidden || live.paused || $("dialog[open]")) return;
  live.busy = true;
  live.last = Date.now();
  try {
    const response = await fetch(location.href, { headers: FRAGMENT, credentials: "same-origin", cache: "no-store" });
    if (response.status === 401 || response.redirected) return location.reload();
    if (!response.ok) throw new Error(String(response.status));
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    setClock(fresh);
    polish(fresh);
    for (const part of $$("[data-live]", fresh)) {
      const old = document.getElementById(part.id);
      if (old) part.dataset.live === "rows" ? morphRows(old, part) : morphPart(old, part);
    }
    live.failed = 0;
    say("live");
  } catch {
    live.failed += 1;
    say("away");
  } finally {
    live.busy = false;
    if (live.failed) later(Math.min(30000, WITHOUT_EVENTS * live.failed));
  }
}
function morphPart(old, part) {
  const log = $(".log", old);
  const atEnd = log && log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  morph(old, part);
  if (atEnd) log.scrollTop = log.scrollHeight;
}
// Rows of a listing change in place; new ones are announced, so that nothing moves under the
// pointer.
let waitingRows = null;
function morphRows(old, part) {
  const here = new Map($$("tr[data-key]", old).map((row) => [row.dataset.key, row]));
  const rows = $$("tr[data-key]", part);
  const fresh = rows.filter((row) => !here.has(row.dataset.key));
  for (const row of rows) {
    const known = here.get(row.dataset.key);
    if (!known) continue;
    const before = known.dataset.state;
    morph(known, row);
    if (before !== known.dataset.state) {
      known.classList.remove("changed");
      void known.offsetWidth;
      known.classList.add("changed");
    }
  }
  const gone = [...here.keys()].filter((key) => !rows.some((row) => row.dataset.key === key));
  const notice = $("#fresh");
  waitingRows = fresh.length || gone.length ? part : null;
  notice.hidden = !waitingRows || !here.size && !fresh.length;
  const words = [];
  if (fresh.length) words.push(`${fresh.length} new`);
  if (gone.length) words.push(`${gone.length} no longer here`);
  notice.textContent = `${words.join(", ")}, show`;
  if (!here.size && fresh.length) showWaiting();
}
function showWaiting() {
  const old = document.getElementById("rows");
  if (!waitingRows || !old) return;
  morph(old, waitingRows);
  waitingRows = null;
  $("#fresh").hidden = true;
  countChosen();
}
function later(wait) {
  if (!live.timer) live.timer = setTimeout(refresh, wait);
}
function changed() {
  if (!document.hidden && !live.paused) later(Math.max(0, PAUSE - (Date.now() - live.last)));
}
function say(word) {
  if (button) button.textContent = { live: "Live", paused: "Paused", away: "No connection" }[live.paused ? "paused" : word];
}
function listen() {
  hush();
  if (!body.dataset.events || document.hidden || live.paused) return;
  const source = new EventSource(body.dataset.events);
  live.source = source;
  source.onopen = () => say("live");
  for (const kind of EVENTS) source.addEventListener(kind, changed);
  // The stream of a task that has ended is over: a browser would open it again and again.
  for (const kind of LAST_EVENTS) source.addEventListener(kind, hush);
  source.onerror = () => say("away");
}
function hush() {
  live.source?.close();
  live.source = null;
}
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return hush();
  listen();
  refresh();
});
addEventListener("pagehide", hush);
addEventListener("pageshow", (event) => event.persisted && listen());
button?.addEventListener("click", () => {
  live.paused = !live.paused;
  button.setAttribute("aria-pressed", String(live.paused));
  say("live");
  if (live.paused) return hush();
  listen();
  refresh();
});

// Tips of plots.
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");
body.append(tip);
document.addEventListener("pointermove", (event) => {
  const over = event.target.closest?.("[data-tip]");
  tip.hidden = !over;
  if (!over) return;
  if (tip.textContent !== over.dataset.tip) tip.textContent = over.dataset.tip;
  const left = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8);
  tip.style.transform = `translate(${Math.max(8, left)}px, ${Math.max(8, event.clientY - tip.offsetHeight - 12)}px)`;
});
document.addEventListener("pointerleave", () => { tip.hidden = true; });

// Choosing rows, and acting on them.
const form = $("#bulk");
const boxes = () => $$("input[name=id]", form);
function countChosen() {
  if (!form) return;
  const chosen = boxes().filter((box) => box.checked).length;
  const every = $("#every")?.checked;
  form.dataset.chosen = every ? "all" : chosen;
  $("#chosen").textContent = every ? "all that fit are chosen" : chosen ? `${chosen} chosen` : "none chosen";
  const head = $("#check-all");
  head.checked = chosen > 0 && chosen === boxes().length;
  head.indeterminate = chosen > 0 && !head.checked;
  $$(".bulk button", form).forEach((each) => { each.disabled = !chosen && !every; });
}
form?.addEventListener("change", (event) => {
  if (event.target.id === "check-all") boxes().forEach((box) => { box.checked = event.target.checked; });
  countChosen();
});
$("#fresh")?.addEventListener("click", showWaiting);

const dialog = $("#dialog");
async function ask(url, data) {
  const response = await fetch(url, { method: "POST", body: data, headers: FRAGMENT, credentials: "same-origin" });
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const part = $("#confirm", page) || $("#problem", page);
  if (!part) return location.reload();
  polish(part);
  dialog.replaceChildren(document.importNode(part, true));
  if (!dialog.open) dialog.showModal();
  $("button.main", dialog)?.focus();
}
// A preview in place of a page of its own; then the action, told as it goes.
document.addEventListener("submit", (event) => {
  const sent = event.target;
  const kind = sent.dataset.ask ?? event.submitter?.dataset.ask;
  if (kind === "preview") {
    event.preventDefault();
    ask(sent.getAttribute("action"), new FormData(sent, event.submitter));
  } else if (kind === "apply") {
    event.preventDefault();
    apply(sent, event.submitter);
  }
});
dialog?.addEventListener("click", (event) => {
  if (event.target === dialog || event.target.closest("[data-close]")) {
    event.preventDefault();
    dialog.close();
  }
});
dialog?.addEventListener("close", () => {
  if (dialog.dataset.done) location.reload();
});
async function apply(sent, submitter) {
  const data = new FormData(sent, submitter);
  const place = $(".course", dialog) || sent;
  const bar = document.createElement("progress");
  bar.className = "full";
  bar.setAttribute("aria-label", "Progress");
  const words = document.createElement("p");
  words.setAttribute("role", "status");
  place.replaceChildren(bar, words);
  $$("button", sent).forEach((each) => { each.hidden = true; });
  dialog.dataset.done = "1";
  try {
    const response = await fetch(sent.getAttribute("action"), {
      method: "POST", body: data, credentials: "same-origin", headers: { Accept: "application/x-ndjson" },
    });
    if (!response.ok || !response.body) throw new Error(`The server answered ${response.status}.`);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines.filter(Boolean)) told(JSON.parse(line), bar, words, sent);
    }
  } catch (error) {
    words.textContent = `It did not get through: ${error.message}`;
    words.className = "failed";
  }
}
function told(what, bar, words, sent) {
  if (what.html !== undefined) {
    const part = new DOMParser().parseFromString(what.html, "text/html");
    dialog.replaceChildren(...[...part.body.childNodes].map((node) => document.importNode(node, true)));
    $("button, a", dialog)?.focus();
    return;
  }
  bar.max = what.total;
  bar.value = what.done;
  words.textContent = what.words;
}

// Keys.
const current = () => $("[data-row][data-here]");
function go(step) {
  const all = $$("[data-row]");
  if (!all.length) return;
  const before = current();
  const row = all[Math.min(all.length - 1, Math.max(0, all.indexOf(before) + step))];
  before?.removeAttribute("data-here");
  row.setAttribute("data-here", "");
  row.scrollIntoView({ block: "nearest" });
  $("a", row)?.focus({ preventScroll: true });
}
function act(action) {
  const chosen = form && (boxes().some((box) => box.checked) || $("#every")?.checked);
  if (form && !chosen && current()) {
    const box = $("input[name=id]", current());
    if (box) box.checked = true;
    countChosen();
  }
  const press = $(`button[data-key-action="${action}"]:not(:disabled)`);
  press?.click();
}
const KEYS = {
  j: () => go(1),
  k: () => go(-1),
  x: () => {
    const box = current() && $("input[name=id]", current());
    if (box) { box.checked = !box.checked; countChosen(); }
  },
  Enter: () => { const link = current() && $("a[data-open]", current()); if (link) link.click(); },
  r: () => act("retry"),
  c: () => act("cancel"),
  n: () => { if (!$("#fresh")?.hidden) showWaiting(); },
  "/": () => { const field = $("[data-filter]") || $("#find"); field?.focus(); field?.select?.(); },
  "?": () => $("#keys")?.showModal(),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = event.target.closest("input:not([type=checkbox]), select, textarea");
  if (event.key === "Escape" && inField) return inField.blur();
  if (inField || $("dialog[open]")) return;
  if (event.key === "Enter" && event.target.closest("a, button, summary")) return;
  const does = KEYS[event.key];
  if (!does) return;
  event.preventDefault();
  does();
});
$("#keys")?.addEventListener("click", (event) => { if (event.target.id === "keys" || event.target.closest("[data-close]")) $("#keys").close(); });

// Filters: a choice is a question; empty fields do not go into the address.
for (const filter of $$("form[data-filter-form]")) {
  filter.addEventListener("change", (event) => { if (event.target.matches("select")) filter.requestSubmit(); });
  filter.addEventListener("submit", () => {
    for (const field of filter.elements) if (field.name && !field.value) field.disabled = true;
  });
}
addEventListener("pageshow", () => $$("form[data-filter-form] :disabled").forEach((field) => { field.disabled = false; }));

// A message is of one moment: it does not stay in the address.
if (new URLSearchParams(location.search).has("did")) {
  const address = new URL(location.href);
  for (const word of ["did", "n", "what"]) address.searchParams.delete(word);
  history.replaceState(null, "", address);
}

setClock(document);
polish();
countChosen();
setInterval(() => { if (!document.hidden) tick(); }, 1000);
setInterval(() => { if (body.dataset.events && Date.now() - live.last >= WITHOUT_EVENTS) refresh(); }, WITHOUT_EVENTS);
listen();
