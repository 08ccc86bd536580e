// Looks at the server again and again, but only while there is something to wait for and someone to see it.

const BUSY_MS = [100, 200, 400, 1000]; // a short job's text shows at once; from then on, once a second
const LATER_MS = 5_000;

export class Live {
  #look;
  #round = 0;
  #timer;

  /** `look(current)` returns "busy", "idle" or "later"; it shows what it got only while `current()` holds. */
  constructor(look) {
    this.#look = look;
    document.addEventListener("visibilitychange", () => this.wake());
  }

  /** Look now. An answer still on its way is older than the reason for this call, so it will not be shown. */
  wake() {
    this.#round += 1;
    this.#turn(this.#round, 0);
  }

  async #turn(round, turn) {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    const found = await this.#look(() => round === this.#round);
    if (round !== this.#round || found === "idle") return;
    const pause = found === "busy" ? BUSY_MS[Math.min(turn, BUSY_MS.length - 1)] : LATER_MS;
    this.#timer = setTimeout(() => this.#turn(round, turn + 1), pause);
  }
}
