/** A picture that is to move and stands still, for so long that somebody wonders. */

const STANDING_MS = 4_000;

export class Standing {
  /** @param {(active: boolean) => void} tell  hears when it has stood so long, and when it moves again */
  constructor(tell) {
    this.#tell = tell;
  }

  #tell;
  #timer = 0;
  #told = false;

  /** It should move soon. */
  begin() {
    this.cancel();
    this.#timer = setTimeout(() => {
      this.#told = true;
      this.#tell(true);
    }, STANDING_MS);
  }

  /** Something has happened to it. @param {boolean} more  whether the next thing should follow soon */
  stir(more) {
    this.cancel();
    if (this.#told) this.#tell(false);
    this.#told = false;
    if (more) this.begin();
  }

  /** Nobody waits any more. */
  cancel() {
    clearTimeout(this.#timer);
  }
}
