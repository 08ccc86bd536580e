// The page's wiring: which click, key or answer leads to what. The other modules do not know each other.

import { Api, ApiError } from "./api.js";
import * as form from "./form.js";
import { JobsTable } from "./jobs-table.js";
import { Live } from "./live.js";
import * as session from "./session.js";
import { isUnfinished, ordinal, tokensOf } from "./words.js";

const LATEST = 20;
const element = (id) => document.getElementById(id);
const outcome = element("outcome"); // what became of the last click
const pulse = element("pulse"); // whether the table is live

let api = null; // null: no key, so nothing can be asked
let modelsDue = true;
let awaited = null; // the id of the job whose end is announced

const table = new JobsTable(element("jobs"), session.rememberedPrompt, cancel);
const live = new Live(look);

/** One look at the server: the models when they are due, and the latest jobs. */
async function look(current) {
  if (!api) return "idle";
  try {
    const models = modelsDue ? await api.models() : null;
    const jobs = await api.latest(LATEST);
    if (!current()) return "idle";
    if (models) form.offerModels(models);
    modelsDue = models?.length === 0; // a worker that is still loading announces its model later
    showJobs(jobs);
    if (table.unfinished) return "busy";
    return modelsDue ? "later" : "idle";
  } catch (error) {
    return current() ? explainSilence(known(error)) : "idle";
  }
}

function showJobs(jobs) {
  form.absolve("key", "good", "Connected.");
  table.show(jobs);
  showPulse();
  announceEnd();
}

function showPulse() {
  const count = table.unfinished;
  form.tell(pulse, count ? "live" : "", count ? `${count} unfinished · live` : "");
  element("no-jobs").hidden = table.size > 0;
  element("no-jobs").textContent = "No jobs yet. What you generate appears here.";
}

function announceEnd() {
  const job = table.job(awaited);
  if (!job || isUnfinished(job)) return;
  awaited = null;
  const tokens = tokensOf(job);
  if (job.status === "failed") form.tell(outcome, "error", job.error?.message ?? "It failed.");
  else if (job.status === "cancelled") form.tell(outcome, "", "Cancelled.");
  else form.tell(outcome, "good", `Done: ${tokens} ${tokens === 1 ? "token" : "tokens"}.`);
}

/** Say why the table does not move; a refused key stays refused, everything else may pass. */
function explainSilence(error) {
  if (error.status === 401) {
    form.blame("key", error.message);
    form.tell(pulse, "", "");
    return "idle";
  }
  form.absolve("key", "error", error.message);
  form.tell(pulse, "error", "Not live: trying again every 5 seconds.");
  return "later";
}

/** The error, if it is one that a person can act on; a fault of this page goes on to the console. */
function known(error) {
  if (error instanceof ApiError || error instanceof form.FieldError) return error;
  throw error;
}

/** Take the key that stands in the field: show its jobs, and none of another key's. */
function connect() {
  const key = element("key").value.trim();
  session.rememberKey(key);
  api = null;
  modelsDue = true;
  table.show([]);
  showPulse();
  form.absolve("key");
  element("no-jobs").textContent = "Your latest jobs appear here once a key is in place.";
  if (/[^\x21-\x7e]/.test(key)) form.blame("key", "This is no key: a key has no spaces and no accents.");
  else if (key) {
    api = new Api(key);
    form.absolve("key", "wait", "Connecting…");
  }
  live.wake();
}

async function generate() {
  const button = element("generate");
  if (button.getAttribute("aria-disabled") === "true") return; // one at a time: a double click is one wish
  form.absolveAll();
  form.tell(outcome, "wait", "Sending…");
  // not `disabled`, which would throw the keyboard's focus away
  button.setAttribute("aria-disabled", "true");
  try {
    await send();
  } catch (error) {
    explainRefusal(known(error));
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

async function send() {
  if (!api) throw new form.FieldError("key", "A key is needed: paste the one that the stack printed at its first start.");
  const asker = api;
  const request = form.readRequest();
  const job = await asker.generate(request);
  session.rememberPrompt(job.id, request.input);
  if (asker !== api) return; // the key was changed meanwhile, and this job is not the new key's
  awaited = job.id;
  table.add(job);
  showPulse();
  const place = job.queue_position;
  form.tell(outcome, "wait", place ? `Sent: ${ordinal(place)} in the queue.` : "Sent.");
  live.wake();
}

function explainRefusal(error) {
  const id = error.field ?? (error.status === 401 ? "key" : form.fieldOf(error.param));
  form.tell(outcome, "error", id ? "Not sent." : error.message);
  if (!id) return;
  form.blame(id, error.message);
  element(id).focus();
}

async function cancel(id) {
  table.cancelling(id, true);
  try {
    table.change(await api.cancel(id));
  } catch (error) {
    table.cancelling(id, false);
    form.tell(outcome, "error", known(error).message);
  }
  live.wake();
}

let typing;
element("key").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(connect, 300); // a key that is typed is not tried at every letter
});
element("connection").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  connect();
});
element("playground").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
element("playground").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  generate();
});
element("refresh").addEventListener("click", () => {
  modelsDue = true;
  live.wake();
});

element("key").value = session.rememberedKey();
connect();
