// The playground's fields: reads them into a request, and puts a sentence beside the field it is about.

const FIELD_OF = {
  model: "model",
  input: "prompt",
  max_output_tokens: "max-tokens",
  temperature: "temperature",
  top_k: "top-n",
};
const FIELDS = ["key", ...Object.values(FIELD_OF)];

const field = (id) => document.getElementById(id);
const note = (id) => document.getElementById(`${id}-note`);

// what the notes say while nothing is wrong
const hints = new Map(FIELDS.map((id) => [id, [...note(id).childNodes]]));

/** The wire's request. Throws a FieldError where a number cannot be read, or no model is there to choose. */
export function readRequest() {
  if (!field("model").value) throw new FieldError("model", "No model is ready yet; this page looks again by itself.");
  const request = {
    model: field("model").value,
    input: field("prompt").value,
    max_output_tokens: wholeNumber("max-tokens") ?? 100,
    temperature: number("temperature") ?? 0.7,
  };
  const topN = wholeNumber("top-n");
  if (topN > 0) request.top_k = topN;
  return request;
}

export class FieldError extends Error {
  constructor(id, message) {
    super(message);
    this.field = id;
  }
}

function number(id) {
  const input = field(id);
  if (input.validity.badInput) throw new FieldError(id, "This is not a number.");
  return input.value === "" ? undefined : input.valueAsNumber;
}

function wholeNumber(id) {
  const value = number(id);
  if (value % 1) throw new FieldError(id, "Send a whole number.");
  return value;
}

/** The field that a request's `param` (perhaps a path, as in `input[0].content`) belongs to, if it is one of ours. */
export function fieldOf(param) {
  return FIELD_OF[/^\w+/.exec(param ?? "")?.[0]];
}

/** Say what is wrong with a field, beside it. */
export function blame(id, sentence) {
  field(id).setAttribute("aria-invalid", "true");
  tell(note(id), "error", sentence);
}

/** Take the blame back: the field's hint returns, or the sentence given. */
export function absolve(id, tone = "", sentence = null) {
  field(id).removeAttribute("aria-invalid");
  if (sentence !== null) tell(note(id), tone, sentence);
  else {
    note(id).className = "note";
    note(id).replaceChildren(...hints.get(id));
  }
}

export function absolveAll() {
  Object.values(FIELD_OF).forEach((id) => absolve(id));
}

/** Put a sentence in its place; `tone` is "", "good", "wait" or "error". */
export function tell(place, tone, sentence) {
  place.className = `note ${tone}`;
  // an unchanged sentence is not written again: it would be read aloud again
  if (place.textContent !== sentence) place.textContent = sentence;
}

/** Offer these models, keeping the choice made before. */
export function offerModels(models) {
  const select = field("model");
  const chosen = select.value;
  const names = models.map((model) => model.id);
  if (names.length) absolve("model");
  const options = names.map((name) => new Option(name, name, false, name === chosen));
  select.replaceChildren(...(names.length ? options : [new Option("no model is ready yet", "")]));
}
