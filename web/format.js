/** 83 -> "1:23", 3700 -> "1:01:40". @param {number|null|undefined} seconds */
export function clock(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/** 83 -> "1 min", 3700 -> "1 h 2 min". @param {number|null|undefined} seconds */
export function span(seconds) {
  if (!Number.isFinite(seconds) || seconds <= 0) return "";
  if (seconds < 90) return seconds < 60 ? `${Math.round(seconds)} s` : "1 min";
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Kilobits per second as people say them. @param {number|null|undefined} kbps @returns {{value: string, unit: string}} */
export function rate(kbps) {
  if (!Number.isFinite(kbps)) return { value: "–", unit: "" };
  if (kbps < 1_000) return { value: String(Math.round(kbps)), unit: "kbit/s" };
  const mbps = kbps / 1_000;
  return { value: mbps < 10 ? mbps.toFixed(1) : String(Math.round(mbps)), unit: "Mbit/s" };
}

/** @param {number|null|undefined} kbps */
export function rateText(kbps) {
  const { value, unit } = rate(kbps);
  return unit ? `${value} ${unit}` : value;
}

/** @param {{price: string, currency: string, is_free: boolean}} course */
export function price(course) {
  if (course.is_free ?? Number(course.price) === 0) return "Free";
  const amount = Number(course.price);
  const currency = course.currency || "usd";
  const style = { style: "currency", currency: currency.toUpperCase() };
  // Browsers round what is seldom said to the cent, as dinars of Serbia; it is charged to the cent all the same.
  if (!Number.isInteger(amount)) style.minimumFractionDigits = THREE.has(currency) ? 3 : 2;
  return new Intl.NumberFormat(undefined, style).format(amount);
}

// In which decimals Stripe counts, where it is not two (https://docs.stripe.com/currencies#zero-decimal); as the server.
const WHOLE = new Set("bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf".split(" "));
const THREE = new Set("bhd jod kwd omr tnd".split(" "));

/** 49 usd -> 4900, 500 jpy -> 500: an amount as Stripe counts it. @param {number} amount @param {string} currency */
export function minorUnits(amount, currency) {
  const decimals = WHOLE.has(currency) ? 0 : THREE.has(currency) ? 3 : 2;
  return Math.round(amount * 10 ** decimals);
}

/** @param {number} count @param {string} one @param {string} [many] */
export function plural(count, one, many = `${one}s`) {
  return `${count.toLocaleString()} ${count === 1 ? one : many}`;
}

/** A rung as people call it: by the height of its picture. @param {{height: number|null, br: number}} rung */
export function rungName(rung) {
  return rung.height ? `${rung.height}p` : rateText(rung.br);
}
