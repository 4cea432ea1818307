// Asks, and hands in what was answered. An answer is kept in this browser until the server says that it has it.

import { element, showState } from "./figures.js";

const AHEAD = 2; // questions that are here before they are asked
const WHY = {
  rank: "Among the most suspicious.", uncertain: "The judge is uncertain here.",
  sample: "One of a random sample, for the stated precision.", again: "Asked once more, to see whether answers agree.",
};
const KEYS = { y: "yes", n: "no", u: "unsure", s: "skip", d: "same_picture" };
const find = (id) => document.getElementById(id);

let person = sessionStorage.getItem("person") || "";
let review = ""; // name of the candidates
let shown = null, ahead = [], since = 0, filling = false, sending = false, wait = 500;
let acting = Promise.resolve(), undoing = 0; // what was asked for while an undo is under way comes after it, in order
let untold = ""; // what was answered, until the next question is spoken with it
const loaded = new Map(); // pictures that are here already

history.replaceState(null, "", location.pathname); // the token stays out of the history

async function call(path, fields = null) {
  const reply = await fetch(path, fields === null ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(fields) });
  const said = await reply.json();
  if (reply.ok) return said;
  throw Object.assign(new Error(said.error), { refused: reply.status === 400, stale: reply.status === 403 });
}
const query = (fields) => new URLSearchParams({ person, ...fields }).toString();
const address = (number, size) => `api/picture/${number}?size=${size}`;

function tell(line) { find("word").textContent = line; find("word").hidden = !line; }

/** Say that the server cannot be reached, or (without an error) that it can. */
function away(error = null) {
  const banner = find("away"), waits = waiting().length;
  const kept = waits ? ` ${waits === 1 ? "1 answer waits" : `${waits} answers wait`} here and nothing is lost.` : " Your answers wait here.";
  banner.hidden = !error;
  if (error) banner.textContent = (error.stale ? "The server was started anew: open the address that it printed." : "The server is away.") + kept;
}

// --- answers under way: one entry of the browser's storage each, so that several tabs do not overwrite each other

const prefix = () => `truepair ${review} `;
function waiting() {
  return Object.keys(localStorage).filter((key) => review && key.startsWith(prefix())).sort()
    .map((id) => ({ id, ...JSON.parse(localStorage.getItem(id)) }));
}

async function send() {
  if (sending) return;
  sending = true;
  try {
    for (let next = waiting()[0]; next; next = waiting()[0]) {
      const { id, question, ...fields } = next;
      try {
        await call("api/answer", { ...fields, key: question.key, name: review });
      } catch (error) {
        if (!error.refused) throw error;
        tell(`An answer was refused: ${error.message}`);
      }
      localStorage.removeItem(id);
      wait = 500;
      away();
    }
  } catch (error) {
    away(error);
    setTimeout(send, wait);
    wait = Math.min(2 * wait, 5000);
  } finally {
    sending = false;
  }
  if (!waiting().length) { fill(); refresh(); }
}

function answer(kind) {
  if (undoing) acting = acting.then(() => give(kind));
  else give(kind);
}

function give(kind) {
  if (!shown) return;
  const seconds = Math.round(performance.now() - since) / 1000;
  const id = `${prefix()}${String(Date.now()).padStart(15, "0")} ${crypto.randomUUID()}`;
  localStorage.setItem(id, JSON.stringify({ person, answer: kind, note: find("note").value, seconds, question: shown }));
  const said = document.querySelector(`[data-answer=${kind}]`).firstChild.textContent.trim();
  shown = null;
  show(ahead.shift() || null, `${said}. `);
  send();
  fill();
}

function undo() {
  undoing += 1;
  acting = acting.then(takeBack);
}

async function takeBack() {
  try {
    const mine = waiting().filter((each) => each.person === person);
    const last = mine[mine.length - 1];
    let back = null;
    if (last && !sending) {
      localStorage.removeItem(last.id);
      back = last.question;
    } else {
      while (sending && waiting().length) await new Promise((done) => setTimeout(done, 20));
      back = (await call("api/undo", { person })).question;
    }
    if (!back) return tell("There is nothing to undo.");
    ahead = ahead.filter((each) => each.key !== back.key);
    if (shown && shown.key !== back.key) ahead.unshift(shown);
    show(back, "Undone. ");
    refresh();
  } catch (error) {
    error.refused ? tell(error.message) : away(error);
  } finally {
    undoing -= 1;
  }
}

// --- questions

async function fill() {
  if (filling || !person) return;
  filling = true;
  const asked = person;
  try {
    while (ahead.length < AHEAD || !shown) {
      const besides = [shown, ...ahead, ...waiting().filter((each) => each.person === person).map((each) => each.question)];
      const { question } = await call(`api/next?${query({ besides: besides.filter(Boolean).map((each) => each.key).join(",") })}`);
      if (asked !== person) break;
      away();
      const known = [shown, ...ahead].filter(Boolean).some((each) => question && each.key === question.key);
      if (!question || known || waiting().some((each) => each.person === person && each.question.key === question.key)) break;
      for (const [number, size] of [[question.picture, 1200], [question.owner, 480]]) load(number, size);
      shown ? ahead.push(question) : show(question);
    }
    find("over").hidden = Boolean(shown);
  } catch (error) {
    error.refused ? tell(error.message) : away(error);
    setTimeout(fill, 2000);
  } finally {
    filling = false;
    if (asked !== person) fill();
  }
}

function load(number, size) {
  if (number === null || number === undefined || loaded.has(address(number, size))) return;
  const image = new Image();
  image.src = address(number, size);
  loaded.set(address(number, size), image);
  if (loaded.size > 24) loaded.delete(loaded.keys().next().value);
}

function show(question, before = "") {
  shown = question;
  find("asking").hidden = !question;
  find("note").value = "";
  open("note-field", "take-note", false);
  tell("");
  untold += before;
  if (!question) return;
  find("over").hidden = true;
  const picture = find("picture");
  find("zoom").hidden = false;
  find("broken").hidden = true;
  picture.src = address(question.picture, 1200);
  picture.alt = `Picture ${question.picture}`;
  const caption = find("caption");
  caption.textContent = question.text;
  caption.classList.toggle("long", question.text.length > 140);
  caption.scrollTop = 0;
  find("why").textContent = WHY[question.why] || "";
  fillContext();
  find("spoken").textContent = `${untold}Next caption: ${question.text}`;
  untold = "";
  since = performance.now();
}

function fillContext() {
  if (!shown || find("context").hidden) return;
  const lines = (texts) => texts.map((text) => element("li", text, { dir: "auto" }));
  find("own").replaceChildren(...lines(shown.own));
  find("owner-captions").replaceChildren(...lines(shown.owner_captions));
  find("owner").src = address(shown.owner, 480);
  find("owner").alt = `Picture ${shown.owner}`;
}

function open(part, button, whether = find(part).hidden) {
  find(part).hidden = !whether;
  find(button).setAttribute("aria-expanded", String(whether));
}
function compare() { open("context", "compare"); fillContext(); }
function note() { open("note-field", "take-note"); if (!find("note-field").hidden) find("note").focus(); }
function enlarge() {
  if (!shown || find("zoom").hidden) return;
  find("large-picture").src = address(shown.picture, 1200);
  find("large-picture").alt = find("picture").alt;
  find("large").showModal();
}

let refreshing = false, again = false;
async function refresh() {
  if (refreshing) { again = true; return; }
  if (!person) return;
  refreshing = true;
  try {
    const state = await call(`api/state?${query({})}`);
    review = state.name;
    showState(state, person);
  } catch (error) {
    error.refused ? tell(error.message) : away(error);
  } finally {
    refreshing = false;
    if (again) { again = false; setTimeout(refresh, 300); }
  }
}

// --- who answers

function askName() {
  find("name").value = person || localStorage.getItem("person") || "";
  find("naming").showModal();
}
async function begin() {
  find("me").textContent = person;
  shown = null;
  ahead = [];
  await refresh();
  if (!review) { setTimeout(begin, 1000); return; } // the server is away
  await fill();
  send();
}
find("naming").addEventListener("close", () => {
  const name = find("name").value.trim();
  if (!name && !person) return askName();
  if (name) person = name;
  sessionStorage.setItem("person", person);
  localStorage.setItem("person", person);
  begin();
});

// --- hands

for (const button of document.querySelectorAll("[data-answer]")) button.addEventListener("click", () => answer(button.dataset.answer));
const taps = { undo, compare, "take-note": note, zoom: enlarge, "open-help": () => find("help").showModal(),
  "open-menu": () => find("menu").showModal(), rename: () => { find("menu").close(); askName(); } };
for (const [id, act] of Object.entries(taps)) find(id).addEventListener("click", act);
// A button that was clicked with a pointer keeps no focus: the space bar must not answer the next question.
document.addEventListener("click", (event) => { if (event.detail && event.target.closest("main button")) document.activeElement.blur(); });
find("picture").addEventListener("error", () => { find("zoom").hidden = true; find("broken").hidden = false; });
find("note").addEventListener("keydown", (event) => { if (["Enter", "Escape"].includes(event.key)) { event.preventDefault(); find("note").blur(); } });
find("certify").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await call("api/certify", { precision: Number(find("precision").value) });
    shown = null;
    ahead = [];
    await fill();
    refresh();
  } catch (error) { error.refused ? tell(error.message) : away(error); }
});
find("import").addEventListener("change", async (event) => {
  const file = event.target.files[0];
  if (!file) return;
  const format = { jsonl: "jsonl", csv: "csv", json: "labelstudio" }[file.name.split(".").pop().toLowerCase()] || "";
  try {
    const reply = await fetch(`api/import?format=${format}`, { method: "POST", body: file });
    tell(reply.ok ? `The answers of ${file.name} are taken.` : (await reply.json()).error);
    find("menu").close();
    refresh();
  } catch (error) { away(error); }
  event.target.value = "";
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || document.querySelector("dialog[open]")) return;
  // What was focused in a dialog keeps the focus until the frame after it closed: keys are for the page already then.
  const focused = event.target.checkVisibility() ? event.target : document.body;
  if (focused.matches("input, select, textarea")) return;
  const key = event.key.toLowerCase();
  const acts = { z: undo, backspace: undo, c: compare, t: note, "?": taps["open-help"] };
  if (key === " " && !focused.closest("button, a")) acts[" "] = enlarge;
  const act = key in KEYS ? () => answer(KEYS[key]) : acts[key];
  if (!act) return;
  event.preventDefault();
  act();
});
setInterval(() => { if (!document.hidden) refresh(); }, 15000); // others answer, too

person ? begin() : askName();
