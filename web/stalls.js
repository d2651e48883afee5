/** Stalls: waits that are longer than a hitch, and what CMCD tells of them. */

// A wait shorter than this is a decoder that changes its picture's size, not a network that is late.
const HITCH_MS = 100;

export class Stalls {
  /** @param {(active: boolean) => void} tell  hears when one begins and when it ends */
  constructor(tell) {
    this.#tell = tell;
  }

  count = 0;
  #tell;
  #hitch = null; // the timer that makes a stall of a wait
  #since = null;
  #began = false; // since the last frame
  #ms = 0; // likewise, of those that are over

  get active() {
    return this.#since !== null;
  }

  /** The picture waits. */
  begin() {
    if (this.#since !== null || this.#hitch !== null) return;
    const since = performance.now();
    this.#hitch = setTimeout(() => {
      this.#hitch = null;
      this.#since = since;
      this.#began = true;
      this.count += 1;
      this.#tell(true);
    }, HITCH_MS);
  }

  /** The picture goes on, or is not to. */
  end() {
    this.cancel();
    if (this.#since === null) return;
    this.#ms += performance.now() - this.#since;
    this.#since = null;
    this.#tell(false);
  }

  /** A wait that is no stall yet will be none. */
  cancel() {
    clearTimeout(this.#hitch);
    this.#hitch = null;
  }

  /** `bs` in the one frame in which a stall began, `bsd` in each that it lasted into: so both add up. */
  fold(cmcd) {
    if (this.#since !== null) {
      const now = performance.now();
      this.#ms += now - this.#since;
      this.#since = now;
    }
    if (this.#began) cmcd.bs = true;
    const whole = Math.round(this.#ms);
    if (whole > 0) cmcd.bsd = whole;
    this.#began = false;
    this.#ms = 0;
  }
}
