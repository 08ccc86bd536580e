// The table of the latest jobs: one Row per job, changed in place so that focus, selection and unfolding stay.

import { isUnfinished, rateOf, statusOf, textOf, timeOf, tokensOf } from "./words.js";

const COLUMNS = ["time", "model", "prompt", "status", "tokens", "text", "action"];

export class JobsTable {
  #rows = new Map();
  #body;
  #onCancel;
  #promptOf;

  /** `promptOf(id)` is the prompt's beginning, if known; `onCancel(id)` is called for a click on Cancel. */
  constructor(table, promptOf, onCancel) {
    this.#body = table.tBodies[0];
    this.#promptOf = promptOf;
    this.#onCancel = onCancel;
    addEventListener("resize", () => this.#rows.forEach((row) => row.measure()));
  }

  get size() {
    return this.#rows.size;
  }

  get unfinished() {
    return [...this.#rows.values()].filter((row) => isUnfinished(row.job)).length;
  }

  /** Exactly these jobs, newest first. */
  show(jobs) {
    const listed = new Set(jobs.map((job) => job.id));
    for (const [id, row] of this.#rows) if (!listed.has(id)) this.#remove(id, row);
    jobs.forEach((job, index) => this.#place(this.#update(job), index));
  }

  /** A job that was just sent: on top, and unfolded, for its sender waits for the text. */
  add(job) {
    const row = this.#update(job);
    row.showPrompt(this.#promptOf(job.id)); // a look may have brought the row before the submit was answered
    row.unfold();
    this.#place(row, 0);
  }

  /** A newer state of a job that may be shown. */
  change(job) {
    this.#rows.get(job.id)?.show(job);
  }

  job(id) {
    return this.#rows.get(id)?.job;
  }

  /** Cancel was asked for and is not yet done, or (false) could not be asked for. */
  cancelling(id, asked) {
    this.#rows.get(id)?.cancelling(asked);
  }

  #update(job) {
    const row = this.#rows.get(job.id) ?? new Row(job, this.#promptOf(job.id), this.#onCancel);
    this.#rows.set(job.id, row);
    row.show(job);
    return row;
  }

  #place(row, index) {
    // moving an element takes its focus, so only what stands elsewhere is moved
    const there = this.#body.children[index] ?? null;
    if (there !== row.element) this.#body.insertBefore(row.element, there);
    row.measure();
  }

  #remove(id, row) {
    row.element.remove();
    this.#rows.delete(id);
  }
}

class Row {
  element = make("tr", "", "row");
  #cells = Object.fromEntries(COLUMNS.map((name) => [name, make("td", name, "cell")]));
  #badge = make("span", "badge");
  #reason = make("small");
  #rate = make("small");
  #count = make("span");
  #text = make("div", "generated folded");
  #unfold = button("Show all", "quiet");
  #cancel = button("Cancel", "small cancel");

  constructor(job, prompt, onCancel) {
    this.element.dataset.id = job.id;
    this.#cells.time.textContent = timeOf(job.created_at);
    this.#cells.model.textContent = job.model;
    this.showPrompt(prompt);
    this.#cells.status.append(this.#badge, this.#reason);
    this.#cells.tokens.append(this.#count, this.#rate);
    this.#cells.text.append(this.#text, this.#unfold);
    this.#cells.action.append(this.#cancel);
    this.element.append(...COLUMNS.map((name) => this.#cells[name]));
    this.#unfold.addEventListener("click", () => this.unfold(this.#text.classList.contains("folded")));
    this.#cancel.addEventListener("click", () => onCancel(job.id));
    this.#cancel.setAttribute("aria-label", `Cancel the job of ${timeOf(job.created_at)}`);
  }

  showPrompt(prompt) {
    const beginning = make("div", prompt ? "beginning" : "unknown");
    beginning.textContent = prompt || "—";
    beginning.title = prompt || (prompt === undefined ? "sent from elsewhere" : "empty");
    this.#cells.prompt.replaceChildren(beginning);
  }

  show(job) {
    this.job = job;
    const { words, tone, reason } = statusOf(job);
    write(this.#badge, words);
    write(this.#reason, reason ?? "");
    this.#badge.className = `badge ${tone}`;
    this.#showTokens(job);
    // generated text is only ever written as text
    write(this.#text, textOf(job) || (job.error?.message ?? ""));
    this.#text.classList.toggle("error", Boolean(job.error) && !textOf(job));
    this.#cancel.hidden = !(isUnfinished(job) && job.background);
    this.measure();
  }

  #showTokens(job) {
    const rate = rateOf(job);
    write(this.#count, tokensOf(job) ?? "");
    write(this.#rate, rate ? `${rate}/s` : "");
    this.#cells.tokens.title = rate ? "generated, and per second while it ran" : "generated";
  }

  unfold(open = true) {
    this.#text.classList.toggle("folded", !open);
    write(this.#unfold, open ? "Show less" : "Show all");
    this.#unfold.setAttribute("aria-expanded", String(open));
    this.measure();
  }

  /** Offer to unfold only what is too long when folded. */
  measure() {
    const isFolded = this.#text.classList.contains("folded");
    this.#text.classList.add("folded");
    this.#unfold.hidden = this.#text.scrollHeight <= this.#text.clientHeight + 1;
    this.#text.classList.toggle("folded", isFolded);
  }

  cancelling(asked) {
    this.#cancel.disabled = asked;
    write(this.#cancel, asked ? "Cancelling…" : "Cancel");
  }
}

function make(tag, className = "", role = "") {
  const element = document.createElement(tag);
  element.className = className;
  if (role) element.setAttribute("role", role);
  return element;
}

function button(words, className) {
  const element = make("button", className);
  element.type = "button";
  element.textContent = words;
  return element;
}

// writing the same text again would drop the reader's selection
function write(element, words) {
  if (element.textContent !== String(words)) element.textContent = words;
}
