// What this tab remembers until it is closed: the key, and the beginnings of the prompts it sent.

const KEY = "penstock.key";
const PROMPTS = "penstock.prompts";
const PROMPTS_KEPT = 100;
const BEGINNING = 200; // characters

export function rememberedKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function rememberKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** A Map from job id to the beginning of its prompt. */
function prompts() {
  return new Map(JSON.parse(sessionStorage.getItem(PROMPTS) ?? "[]"));
}

export function rememberPrompt(id, prompt) {
  const kept = [...prompts(), [id, prompt.slice(0, BEGINNING)]].slice(-PROMPTS_KEPT);
  sessionStorage.setItem(PROMPTS, JSON.stringify(kept));
}

/** Undefined for a job that another tab or program sent: the server does not repeat prompts. */
export function rememberedPrompt(id) {
  return prompts().get(id);
}
