/**
 * How fast to play: as the learner wants it, and slower while the network carries not even the lowest rung and little is
 * left to play; a tenth, and a fifth where hardly anything is.
 *
 * There no decision helps any more, and a second of stall is a second in which nothing can be understood. Speech and
 * picture slowed by a tenth are hardly noticed, and by a quarter accepted (adaptive media playout: Steinbach, Färber and
 * Girod, ICIP 2001; Kalman, Steinbach and Girod, IEEE TCSVT 2004), and browsers keep the pitch. So what is buffered
 * lasts longer, and what comes meanwhile may do.
 */

// So much slower below the first of the two, and until the second; so the speed changes few times in a bad patch.
const STEPS = [
  { factor: 0.8, belowMs: 4_000, untilMs: 8_000 },
  { factor: 0.9, belowMs: 8_000, untilMs: 12_000 },
];
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
  #factor = 1;

  /** Whether it plays slower than the learner wants. Whoever sets another speed wants that one. */
  get slowed() {
    return this.#factor < 1 && this.#video.playbackRate === this.#wanted * this.#factor;
  }

  /** As the learner wants it. */
  get wanted() {
    return this.slowed ? this.#wanted : this.#video.playbackRate;
  }

  /** Sets the element's speed by what is known now. @param {Standing} now */
  set({ lowest, lowestKbps, kbps, bufferMs, complete }) {
    const [wanted, factor] = [this.wanted, this.slowed ? this.#factor : 1];
    const short = lowest && !complete && kbps !== null && kbps < CARRIES * lowestKbps * wanted;
    const step = STEPS.find((step) => bufferMs < (factor <= step.factor ? step.untilMs : step.belowMs));
    this.#wanted = wanted;
    this.#factor = short && step ? step.factor : 1;
    const rate = wanted * this.#factor;
    if (this.#video.playbackRate !== rate) this.#video.playbackRate = rate;
  }
}
