// The only module that talks to the server: every failure leaves it as an ApiError with one sentence.

const PATIENCE_MS = 15_000;

export class ApiError extends Error {
  /** `status` is 0 where no answer came; `param` names the request's field that the sentence is about. */
  constructor(message, status = 0, param = null) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

export class Api {
  #key;

  constructor(key) {
    this.#key = key;
  }

  async models() {
    return (await this.#call("GET", "v1/models")).data;
  }

  async latest(limit) {
    return (await this.#call("GET", `v1/responses?limit=${limit}`)).data;
  }

  generate(request) {
    return this.#call("POST", "v1/responses", { ...request, background: true });
  }

  cancel(id) {
    return this.#call("POST", `v1/responses/${encodeURIComponent(id)}/cancel`);
  }

  async #call(method, path, body) {
    const response = await this.#send(method, path, body);
    const answer = await response.json().catch(() => null);
    if (response.ok && answer) return answer;
    const error = answer?.error;
    throw new ApiError(error?.message ?? `The server answered ${response.status}, in no way this page can read.`,
      response.status, error?.param);
  }

  async #send(method, path, body) {
    const headers = { Authorization: `Bearer ${this.#key}` };
    if (body) headers["Content-Type"] = "application/json";
    try {
      return await fetch(path, {
        method,
        headers,
        body: body && JSON.stringify(body),
        cache: "no-store",
        credentials: "omit", // the key is the only credential, so no other site can borrow one
        signal: AbortSignal.timeout(PATIENCE_MS),
      });
    } catch {
      throw new ApiError(`The server at ${location.origin} does not answer.`);
    }
  }
}
