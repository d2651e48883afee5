/** Parts of the page that others wrote, fetched when they are needed. */

/** How often each did not come. @type {Map<string, number>} */
const missed = new Map();

/**
 * A module; rejects where it does not come, and may be asked for again. Browsers remember of an address that nothing came from
 * it, for as long as the page lives: so it gets another one, which the server cannot tell from it.
 *
 * @param {string} address
 */
export async function part(address) {
  const misses = missed.get(address) ?? 0;
  try {
    return await import(misses > 0 ? `${address}#${misses}` : address);
  } catch (error) {
    missed.set(address, misses + 1);
    throw error;
  }
}
