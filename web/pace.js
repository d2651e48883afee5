/**
 * How fast to play: as the learner wants it, and a tenth slower while the network carries not even the lowest rung and
 * little is left to play.
 *
 * There no decision helps any more, and a second of stall is a second in which nothing can be understood. Speech and
 * picture slowed by a tenth are hardly noticed (adaptive media playout: Steinbach, Färber and Girod, ICIP 2001; Kalman,
 * Steinbach and Girod, IEEE TCSVT 2004, who find a quarter acceptable), and browsers keep the pitch. So what is buffered
 * lasts longer, and what comes meanwhile may do.
 */

export const SLOWER = 0.9;
// Slower below the first, and as before above the second; so the speed changes once or twice in a bad patch.
const SHORT_MS = 8_000;
const ENOUGH_MS = 12_000;
// A network that carries so many times the lowest rung fills the buffer by itself.
const CARRIES = 1.2;

/**
 * @typedef {object} Standing
 * @property {boolean} lowest         whether the lowest rung is what is fetched
 * @property {number} lowestKbps      its bitrate
 * @property {number|null} kbps       the throughput as far as it is known
 * @property {number} bufferMs        what may be played on
 * @property {boolean} complete       whether nothing is left to fetch
 */

export class Pace {
  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.#video = video;
  }

  #video;
  #wanted = 1; // what it was when it was slowed
  #slowedTo = null;

  /** Whether it plays slower than the learner wants. Whoever sets another speed wants that one. */
  get slowed() {
    return this.#slowedTo !== null && this.#video.playbackRate === this.#slowedTo;
  }

  /** As the learner wants it. */
  get wanted() {
    return this.slowed ? this.#wanted : this.#video.playbackRate;
  }

  /** Sets the element's speed by what is known now. @param {Standing} now */
  set({ lowest, lowestKbps, kbps, bufferMs, complete }) {
    const wanted = this.wanted;
    const short = bufferMs < (this.slowed ? ENOUGH_MS : SHORT_MS);
    const slower = lowest && short && !complete && kbps !== null && kbps < CARRIES * lowestKbps * wanted;
    this.#wanted = wanted;
    this.#slowedTo = slower ? wanted * SLOWER : null;
    const rate = this.#slowedTo ?? wanted;
    if (this.#video.playbackRate !== rate) this.#video.playbackRate = rate;
  }
}
