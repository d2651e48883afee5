/**
 * What is being written, so that neither a reload, a crash nor having to sign in anew costs a word of it. It is one tab's
 * affair, and one user's.
 */
import { tab } from "./kept.js";

const PREFIX = "lectern.draft.";

/**
 * Puts what was written before into a field, and keeps what is written there from now on.
 *
 * @param {HTMLInputElement|HTMLTextAreaElement} field
 * @param {...string} name  whose it is, and what it belongs to
 */
export function keepDraft(field, ...name) {
  const key = PREFIX + name.join(".");
  field.value = tab.get(key) ?? field.value;
  field.addEventListener("input", () => tab.set(key, field.value));
}

/** It was sent, or given up: all that was kept under names that begin so. @param {...string} name */
export function dropDrafts(...name) {
  for (const key of tab.keys(PREFIX + name.join("."))) tab.remove(key);
}
