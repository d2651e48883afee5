/**
 * What the browser keeps for this page, as text: `tab` for as long as the tab lives, `browser` beyond that. Where it keeps
 * nothing, because that is forbidden or there is no room, the page itself remembers it for as long as it is open.
 */
class Kept {
  /** @param {() => Storage} store  throws where it is forbidden */
  constructor(store) {
    this.#store = store;
    // What another tab has written since is newer.
    window.addEventListener("storage", ({ key, storageArea }) => storageArea === this.#try(store) && this.#here.delete(key));
  }

  #store;
  #here = new Map();

  /** @param {string} key @returns {string|null} */
  get(key) {
    return this.#here.get(key) ?? this.#try(() => this.#store().getItem(key)) ?? null;
  }

  /** @param {string} key @param {string} text */
  set(key, text) {
    this.#here.delete(key);
    const kept = this.#try(() => this.#store().setItem(key, text) ?? true);
    if (kept) return;
    this.remove(key); // better none than the one of before
    this.#here.set(key, text);
  }

  /** @param {string} key */
  remove(key) {
    this.#here.delete(key);
    this.#try(() => this.#store().removeItem(key));
  }

  /** @param {string} prefix @returns {string[]} the keys that begin so */
  keys(prefix) {
    const all = [...(this.#try(() => Object.keys(this.#store())) ?? []), ...this.#here.keys()];
    return all.filter((key) => key.startsWith(prefix));
  }

  #try(work) {
    try {
      return work();
    } catch {
      return undefined;
    }
  }
}

export const tab = new Kept(() => sessionStorage);
export const browser = new Kept(() => localStorage);
