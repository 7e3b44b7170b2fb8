"use strict";
// Pictures wait in a list, a few at a time are asked about, and every answer fills the card of its picture. Whatever came from outside
// (names of files, classes and models, messages) goes into the page as text and never as markup.
(() => {
const AT_ONCE = 2, LIMIT = 60, TRIES = 6, TOP = 5, LONGEST_WAIT = 60, FAR_TOO_LONG = 180;
const TITLES = { 400: "Not readable as a picture", 404: "No such model", 408: "The upload was too slow", 413: "Too large",
  415: "Not a picture that is read here", 500: "The server failed", 503: "The server is busy", 504: "This took too long" };
const $ = (id) => document.getElementById(id);
let models = JSON.parse($("facts").textContent), model = null, pictures = [];
let token = remembered(), locked = false, heldUntil = 0, running = 0, ticking = 0;

// ---------------------------------------------------------------------------------------------------------------------- the server

class Refusal extends Error {
  constructor(response, body) {
    const about = (body && body.error) || {};
    super(about.message || `The server answered ${response.status} ${response.statusText}.`);
    this.status = response.status;
    this.request = about.request_id || response.headers.get("x-request-id") || "";
    const wait = Number(response.headers.get("retry-after"));
    this.wait = Math.min(LONGEST_WAIT, Math.max(1, wait || 2));
  }
}

async function call(path, { query = {}, file = null, signal } = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const address = `${path}${file ? `?${new URLSearchParams(query)}` : ""}`;
  let body;
  if (file) { body = new FormData(); body.append("file", file, file.name || "pasted.png"); }
  let response;
  try {
    response = await fetch(address, { method: file ? "POST" : "GET", headers, body, signal, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    if (signal && signal.aborted) throw error;
    throw new Error("The server cannot be reached, or the file cannot be read, or it is so large that the server hung up.");
  }
  if (response.ok) return response;
  throw new Refusal(response, await response.json().catch(() => null));
}

function remembered() { try { return sessionStorage.getItem("swinkit-token") || ""; } catch { return ""; } }
function remember(value) { token = value; try { sessionStorage.setItem("swinkit-token", value); } catch { /* kept in memory alone */ } }

async function fetchModels() {
  hideNotice();
  try {
    models = (await (await call("models")).json()).models;
    introduce();
  } catch (error) {
    if (error.status === 401) return askForToken();
    tell(error.message, "Try again", fetchModels);
  }
}

// ------------------------------------------------------------------------------------------------------------------------ the list

function add(files) {
  const chosen = [...files], room = LIMIT - pictures.length, taken = chosen.slice(0, Math.max(0, room));
  const first = $("cards").firstChild;
  for (const file of taken) {
    const picture = { file, name: file.name || "pasted picture", state: "waiting", tries: 0, address: URL.createObjectURL(file), overlays: new Map() };
    pictures.push(picture);
    $("cards").insertBefore(makeCard(picture), first);
  }
  document.body.classList.add("busy");
  if (taken.length < chosen.length)
    tell(`This page holds ${LIMIT} pictures at a time; ${chosen.length - taken.length} of the ${chosen.length} were left out.`, "Clear the page", clear);
  pump();
}

function pump() {
  if (model && !locked && Date.now() >= heldUntil)
    for (const picture of pictures.filter((one) => one.state === "waiting").slice(0, AT_ONCE - running)) ask(picture);
  showProgress();
}

async function ask(picture) {
  const turn = picture.turn = new AbortController(), asked = model, started = performance.now();
  const slow = setTimeout(() => turn.abort("slow"), FAR_TOO_LONG * 1000);
  running += 1;
  enter(picture, "running");
  try {
    const response = await call("predict", { query: { model: asked.name, top_k: TOP }, file: picture.file, signal: turn.signal });
    const answer = await response.json();
    if (picture.turn !== turn) return;
    picture.answer = { ...answer, model: asked, whole: performance.now() - started };
    enter(picture, "done");
    const best = answer.results[0].predictions[0];
    say(`${picture.name}: ${best.label}, ${percent(best.probability)}. ${count("done")} of ${pictures.length} done.`);
  } catch (error) {
    if (picture.turn === turn) refused(picture, turn.signal.aborted ? new Error(`No answer came within ${FAR_TOO_LONG} seconds.`) : error);
  } finally {
    clearTimeout(slow);
    running -= 1;
    pump();
  }
}

function refused(picture, error) {
  if (error.status === 401) { enter(picture, "waiting"); return askForToken(); }
  if (error.status === 503 && ++picture.tries < TRIES) { enter(picture, "waiting"); return hold(error.wait); }
  picture.error = error;
  enter(picture, "failed");
  say(`${picture.name}: ${error.message}`);
}

// Under overload nothing is asked until the time that the server named, plus a little that differs from page to page.
function hold(seconds) {
  const until = Date.now() + 1000 * seconds * (1 + 0.2 * Math.random());
  if (Date.now() >= heldUntil) say(`The server is busy. Trying again in ${Math.ceil(seconds)} seconds.`);
  heldUntil = Math.max(heldUntil, until);
  clearInterval(ticking);
  ticking = setInterval(tick, 250);
  tick();
}

function tick() {
  const left = Math.ceil((heldUntil - Date.now()) / 1000);
  if (left > 0 && count("waiting")) return notice(`The server is busy. Trying again in ${left} s.`, "Try now", release);
  release();
}

function release() {
  clearInterval(ticking);
  heldUntil = 0;
  hideNotice();
  pump();
}

function again(picture) { picture.tries = 0; forget(picture); enter(picture, "waiting"); pump(); }

// What is still under way for a picture loses its right to write into the card.
function forget(picture) {
  const turn = picture.turn;
  picture.turn = picture.answer = picture.error = null;
  if (turn) turn.abort();
  picture.overlays.forEach((made) => URL.revokeObjectURL(made));
  picture.overlays.clear();
}

function drop(picture) {
  forget(picture);
  URL.revokeObjectURL(picture.address);
  picture.card.remove();
  pictures = pictures.filter((one) => one !== picture);
}

function remove(picture) {
  const near = picture.card.nextElementSibling || picture.card.previousElementSibling;
  drop(picture);
  (near ? near.querySelector(".away") : $("choose")).focus();
  pump();
}

function stop() {
  for (const picture of pictures.filter(pending)) { forget(picture); enter(picture, "stopped"); }
  release();
  say("Stopped.");
  $("clear").focus();
}

function clear() {
  pictures.slice().forEach(drop);
  document.body.classList.remove("busy");
  release();
  say("Cleared.");
  $("choose").focus();
}

const pending = (picture) => picture.state === "waiting" || picture.state === "running";
const count = (state) => pictures.filter((picture) => picture.state === state).length;

// ----------------------------------------------------------------------------------------------------------------------- the cards

function make(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function button(className, text, act, label = "") {
  const node = make("button", className, text);
  node.type = "button";
  if (label) node.setAttribute("aria-label", label);
  node.addEventListener("click", act);
  return node;
}

const bdi = (text) => make("bdi", "", text);

function makeCard(picture) {
  const image = make("img"), thumb = make("figure", "thumb", image);
  image.alt = "";
  image.decoding = "async";
  image.addEventListener("load", () => image.classList.toggle("pixels", image.naturalWidth < 100));
  image.addEventListener("error", () => thumb.classList.add("none"));
  image.src = picture.address;
  const name = make("h3", "", bdi(picture.name)), body = make("div", "said");
  picture.card = make("li", "card", thumb, make("div", "said", name, body),
    button("plain away", "\u00d7", () => remove(picture), `Remove ${picture.name}`));
  Object.assign(picture, { image, body });
  enter(picture, "waiting");
  return picture.card;
}

function enter(picture, state) {
  const focused = picture.body.contains(document.activeElement);
  picture.state = state;
  picture.card.setAttribute("aria-busy", String(pending(picture)));
  picture.body.replaceChildren(...{ waiting: atWork, running: atWork, done: answered, failed, stopped }[state](picture));
  if (picture.image.alt) showPicture(picture); // an overlay of the answer before
  if (focused) picture.card.querySelector(".away").focus();
  showProgress();
}

function atWork(picture) {
  const bar = make("progress");
  bar.setAttribute("aria-label", `${picture.name}: ${picture.state === "waiting" ? "waiting" : "being looked at"}`);
  if (picture.state === "waiting") bar.value = 0;
  return [make("p", "quiet", picture.state === "waiting" ? "Waiting" : "Looking"), bar];
}

function answered(picture) {
  const { results, timing_ms: ms, model: by, whole } = picture.answer, guesses = results[0].predictions;
  const list = make("ol", "guesses", ...guesses.map(guess));
  list.setAttribute("aria-label", `Best guesses for ${picture.name}`);
  const parts = [["decode", "decoding"], ["queue", "waiting"], ["model", "computing"]].filter(([part]) => ms[part] >= 0.05);
  const spent = parts.map(([part, doing]) => `${milliseconds(ms[part])} ${doing}`).join(", ");
  const timing = make("p", "timing", `${milliseconds(ms.total)} ms at the server${spent && `: ${spent}`}. ${milliseconds(whole)} ms in all.`);
  if (models.length > 1) timing.append(" By ", bdi(by.name), ".");
  return [list, ...(by.explains ? [overlayControls(picture, guesses)] : []), timing];
}

function guess({ label, probability }) {
  const bar = make("i");
  bar.setAttribute("aria-hidden", "true");
  requestAnimationFrame(() => bar.style.setProperty("--v", Math.min(1, Math.max(0, probability))));
  return make("li", "", bdi(label), " ", make("span", "", percent(probability)), bar);
}

function failed(picture) {
  const { error } = picture, text = make("p", "failed", make("b", "", TITLES[error.status] || "No answer"), error.message);
  const code = error.request ? [make("p", "code", `Request ${error.request}`)] : [];
  return [text, ...code, button("again", "Try again", () => again(picture), `Try ${picture.name} again`)];
}

function stopped(picture) {
  return [make("p", "quiet", "Stopped"), button("again", "Ask now", () => again(picture), `Ask about ${picture.name} now`)];
}

// One decimal, and never the certainty that a softmax does not have.
function percent(share) {
  const shown = share > 0.9995 ? ">\u200999.9" : share > 0 && share < 0.0005 ? "<\u20090.1" : (100 * share).toFixed(1);
  return `${shown}\u00a0%`;
}

const milliseconds = (value) => (value >= 9.95 ? Math.round(value).toLocaleString("en") : value.toFixed(1));

// --------------------------------------------------------------------------------------------------------------------- the overlay

function overlayControls(picture, guesses) {
  const which = make("select"), says = make("p", "quiet");
  which.append(...guesses.map(({ label }) => make("option", "", label)));
  which.setAttribute("aria-label", "Evidence for the class");
  which.hidden = says.hidden = true;
  const toggle = button("", "Show evidence", () => (which.hidden ? show() : hide()), `Show evidence on ${picture.name}`);
  toggle.setAttribute("aria-pressed", "false");
  const turned = (on) => { which.hidden = !on; toggle.setAttribute("aria-pressed", String(on)); toggle.firstChild.data = on ? "Show picture" : "Show evidence"; };
  const hide = () => { turned(false); says.hidden = true; showPicture(picture); };
  const show = async () => {
    const label = which.value, answer = picture.answer;
    turned(true);
    try {
      if (!picture.overlays.has(label)) {
        Object.assign(says, { textContent: "Looking", hidden: false });
        const made = await overlay(picture, label);
        if (picture.answer !== answer) return;
        picture.overlays.set(label, URL.createObjectURL(made));
      }
      if (which.hidden || which.value !== label) return;
      says.hidden = true;
      picture.image.src = picture.overlays.get(label);
      picture.image.alt = `Where the model looked for ${label}`;
      say(picture.image.alt);
    } catch (error) {
      if (picture.answer !== answer) return;
      hide();
      Object.assign(says, { textContent: error.message, hidden: false });
      say(error.message);
      if (error.status === 401) askForToken();
    }
  };
  which.addEventListener("change", show);
  return make("div", "look", toggle, which, says);
}

function showPicture(picture) { Object.assign(picture.image, { src: picture.address, alt: "" }); }

async function overlay(picture, label) {
  const response = await call("explain", { query: { model: picture.answer.model.name, label }, file: picture.file, signal: picture.turn.signal });
  return response.blob();
}

// ---------------------------------------------------------------------------------------------------------------- around the cards

function showProgress() {
  const left = pictures.filter(pending).length, all = pictures.length, failures = count("failed");
  $("results").hidden = !all;
  $("stop").hidden = !left;
  const trouble = failures ? `, ${failures} without an answer` : "";
  $("progress").textContent = left ? `${all - left} of ${all}${trouble}` : `${all} picture${all === 1 ? "" : "s"}${trouble}`;
}

function say(text) { $("status").textContent = text; }

function notice(text, name, act) {
  $("notice").hidden = false;
  $("notice-says").textContent = text;
  $("notice-do").textContent = name;
  $("notice-do").onclick = act;
}

function tell(text, name, act) { notice(text, name, act); say(text); }

function hideNotice() {
  if ($("notice").contains(document.activeElement)) $("choose").focus();
  $("notice").hidden = true;
}

function askForToken() {
  if (!locked && token) $("unlock-says").textContent = "It did not take the last one.";
  locked = true;
  $("unlock").hidden = false;
  $("token").focus();
  say(`This server asks for a token. ${$("unlock-says").textContent}`);
}

function unlock(event) {
  event.preventDefault();
  remember($("token").value.trim());
  $("token").value = "";
  $("unlock").hidden = true;
  locked = false;
  $("choose").focus();
  if (models.length) pump(); else fetchModels();
}

function introduce() {
  $("model").replaceChildren(...models.map(({ name }) => make("option", "", name)));
  $("models").hidden = models.length < 2;
  choose(models[0] || null);
}

function choose(next) {
  model = next;
  if (!model) return tell("This server has no model.", "Look again", fetchModels);
  const names = Array.isArray(model.classes) ? model.classes : [], classes = names.length || Number(model.classes) || 0;
  $("name").textContent = document.title = model.name;
  $("count").textContent = classes === 1 ? "one class" : `${classes.toLocaleString("en")} classes`;
  $("about").textContent = model.about || "";
  $("words").textContent = names.join(" \u00b7 ");
  $("lead").hidden = !classes;
  $("about").hidden = !model.about;
  $("terminal").hidden = false;
  $("vocabulary").hidden = !names.length;
  const address = new URL(`predict?${new URLSearchParams({ model: model.name })}`, location.href);
  $("command").textContent = `curl ${token ? "-H 'Authorization: Bearer TOKEN' " : ""}-F file=@photo.jpg '${address.href.replace(/'/g, "%27")}'`;
  pictures.filter((picture) => picture.state !== "stopped").forEach((picture) => { forget(picture); picture.tries = 0; enter(picture, "waiting"); });
  pump();
}

function take(transfer, what) {
  const folders = [...transfer.items].some((item) => item.webkitGetAsEntry && item.webkitGetAsEntry() && item.webkitGetAsEntry().isDirectory);
  if (folders) return tell("A folder cannot be dropped here; drop the pictures in it.", "Choose pictures", () => $("files").click());
  if (transfer.files.length) { hideNotice(); return add(transfer.files); }
  tell(`No picture was ${what}; a file or a copied picture can be.`, "Choose pictures", () => $("files").click());
}

for (const [name, input] of [["choose", "files"], ["photograph", "camera"]]) {
  $(name).addEventListener("click", () => $(input).click());
  $(input).addEventListener("change", () => { add($(input).files); $(input).value = ""; });
}
let depth = 0;
const over = (change) => { depth = Math.max(0, change); document.body.classList.toggle("over", depth > 0); };
addEventListener("dragenter", () => over(depth + 1));
addEventListener("dragleave", () => over(depth - 1));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => { event.preventDefault(); over(0); take(event.dataTransfer, "dropped"); });
addEventListener("paste", (event) => { if (event.target !== $("token")) take(event.clipboardData, "pasted"); });
$("drop").addEventListener("click", (event) => { if (event.target === $("drop")) $("files").click(); });
$("model").addEventListener("change", () => choose(models[$("model").selectedIndex]));
$("unlock").addEventListener("submit", unlock);
$("stop").addEventListener("click", stop);
$("clear").addEventListener("click", clear);
if (models.length) introduce(); else fetchModels();
})();
