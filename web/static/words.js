// How a response's fields read to a person: no DOM, no server.

const UNFINISHED = new Set(["queued", "in_progress"]);
const POSITION_LIMIT = 1000; // the server counts no further

export function isUnfinished(job) {
  return UNFINISHED.has(job.status);
}

/** The status in words, the tone it is shown in, and perhaps a reason. */
export function statusOf(job) {
  switch (job.status) {
    case "queued":
      return { words: job.queue_position ? `queued · ${place(job.queue_position)}` : "queued", tone: "wait" };
    case "in_progress":
      return { words: "in progress", tone: "busy" };
    case "completed":
      return { words: "completed", tone: "good" };
    case "incomplete":
      return { words: "completed", tone: "good", reason: REASONS[job.incomplete_details?.reason] ?? "cut short" };
    case "failed":
      return { words: "failed", tone: "error" };
    default:
      return { words: job.status, tone: "" };
  }
}

const REASONS = { max_output_tokens: "at max tokens" };

function place(position) {
  return position < POSITION_LIMIT ? ordinal(position) : `${ordinal(POSITION_LIMIT)} or later`;
}

const SUFFIXES = { one: "st", two: "nd", few: "rd", other: "th" };
const rules = new Intl.PluralRules("en", { type: "ordinal" });

export function ordinal(number) {
  return `${number}${SUFFIXES[rules.select(number)]}`;
}

/** The generated text; empty while there is none. */
export function textOf(job) {
  const parts = (job.output ?? []).flatMap((item) => item.content ?? []);
  return parts.filter((part) => part.type === "output_text").map((part) => part.text).join("");
}

/** Tokens generated; undefined while unknown. */
export function tokensOf(job) {
  return job.usage?.output_tokens;
}

/** Tokens per second while it ran; undefined until it has ended. */
export function rateOf(job) {
  return job.run_ms > 0 && tokensOf(job) ? Math.round((1000 * tokensOf(job)) / job.run_ms) : undefined;
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

/** The time of a unix second, with the date where it was not today. */
export function timeOf(seconds) {
  const time = new Date(seconds * 1000);
  const isToday = time.toDateString() === new Date().toDateString();
  return isToday ? clock.format(time) : `${day.format(time)}, ${clock.format(time)}`;
}
