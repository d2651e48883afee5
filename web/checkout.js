/**
 * Paying: by a card that is kept, or by a new one, which Stripe's own form takes in a frame of its own. Its number never
 * comes near this page; what comes is a token.
 */
import { explain, Problem } from "./api.js";
import { disabledDuring, h, setText } from "./dom.js";
import { minorUnits } from "./format.js";
import { newId } from "./ids.js";
import { tab } from "./kept.js";

const SETTLES_MS = 30_000;
const LOOK_MS = 500;

/** Stripe's script, once. @type {Promise<any>|null} */
let loading = null;

/** @param {import("./api.js").Api} api  @returns {Promise<any>} Stripe's own object */
function provider(api) {
  loading ??= load(api).catch((error) => {
    loading = null;
    throw error;
  });
  return loading;
}

async function load(api) {
  const { publishable_key, script_url } = await api.paymentProvider();
  await new Promise((resolve, reject) => {
    const script = h("script", { src: script_url });
    script.addEventListener("load", resolve, { once: true });
    script.addEventListener("error", () => reject(new Problem(0, { code: "till_blocked" })), { once: true });
    document.head.append(script);
  });
  return window.Stripe(publishable_key);
}

/**
 * A form that pays: which card, and a button.
 *
 * @param {object} options
 * @param {import("./api.js").Api} options.api
 * @param {string} options.action       on the button, as "Pay $49.00"
 * @param {string} options.what         names what is paid for, so that it is paid once however often it is sent
 * @param {string} options.currency
 * @param {number} options.amount       in the currency's unit
 * @param {(methodId: string, key: string) => Promise<any>} options.pay
 * @param {(answer: any) => Promise<"open"|"paid"|"over">} options.standing  what has become of it by now
 * @param {(answer: any) => void} options.done
 */
export async function checkout({ api, action, what, currency, amount, pay, standing, done }) {
  const [stripe, methods] = await Promise.all([provider(api), api.paymentMethods()]);
  const elements = stripe.elements({ mode: "payment", currency, amount: minorUnits(amount, currency), paymentMethodCreation: "manual" });
  const place = h("div", { class: "new-card" });
  const told = h("p", { class: "failure", role: "alert", hidden: true });
  const button = h("button", { class: "primary", type: "submit" }, action);
  const choices = methods.map((method) => choice(method.id, `${method.brand} ending in ${method.card_last_four}, ${method.card_expiry}`));
  const another = choice("", methods.length ? "Another card" : "A card");
  const form = h("form", { class: "checkout", "aria-label": "Pay" }, h("fieldset", null, h("legend", null, "Pay by"), ...choices, another), place, told, button);
  const chosen = () => new FormData(form).get("method") ?? "";
  // What is in Stripe's form, once it is kept: the next try is by the same card, unless another one was put in.
  let entered = "";
  let mounted = false;
  const show = () => {
    place.hidden = chosen() !== "";
    if (!place.hidden && !mounted) {
      mounted = true;
      const element = elements.create("payment");
      element.on("change", () => (entered = ""));
      element.mount(place);
    }
  };
  const payBy = async (method) => {
    let answer = await pay(method, keyOf(what, method));
    let standsAs = await standing(answer);
    if (standsAs === "over") {
      // An earlier try's answer once more, and the bank has refused that since: this is another one.
      forgetKey(what, method);
      answer = await pay(method, keyOf(what, method));
      standsAs = await standing(answer);
    }
    if (standsAs === "open") {
      await act(stripe, answer);
      standsAs = await settle(() => standing(answer));
    }
    if (standsAs === "over") throw new Error("The bank refused it, and nothing was charged.");
    if (standsAs === "open") throw new Error("It is not paid yet. Look again in a moment.");
    forgetKeys(what);
    return answer;
  };
  (choices[methods.findIndex(({ is_default }) => is_default)] ?? another).querySelector("input").checked = true;
  form.addEventListener("change", show);
  queueMicrotask(show);
  const submit = async () => {
    told.hidden = true;
    let method = chosen();
    try {
      method ||= entered ||= await keep(api, stripe, elements);
      done(await payBy(method));
    } catch (error) {
      // What was refused is over: the next try is another one.
      if (error instanceof Problem && error.status >= 400 && error.status < 500 && !error.body.retryable) {
        forgetKey(what, method);
        entered = "";
      }
      setText(told, error instanceof Problem ? explain(error) : error.message);
      told.hidden = false;
    }
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    disabledDuring(button, submit);
  });
  return form;
}

function choice(value, text) {
  return h("label", { class: "choice" }, h("input", { type: "radio", name: "method", value }), ` ${text}`);
}

/** A new card: to Stripe by its own form, to us by its token. */
async function keep(api, stripe, elements) {
  const checked = await elements.submit();
  if (checked.error) throw new Error(checked.error.message);
  const { paymentMethod, error } = await stripe.createPaymentMethod({ elements });
  if (error) throw new Error(error.message);
  return (await api.addPaymentMethod(paymentMethod.id)).id;
}

/** The bank may ask its customer first, on its own page or in a frame. */
async function act(stripe, answer) {
  if (answer.action_url) {
    location.assign(answer.action_url);
    await new Promise(() => {}); // this page is going
  }
  if (!answer.client_secret) return;
  const { error } = await stripe.handleNextAction({ clientSecret: answer.client_secret });
  if (error) throw new Error(error.message);
}

/** What it stands as when it is no longer open, or after a while. */
async function settle(look) {
  const until = performance.now() + SETTLES_MS;
  let standsAs = await look();
  while (standsAs === "open" && performance.now() < until) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    standsAs = await look();
  }
  return standsAs;
}

// A purchase that was cut off is sent again under the key that it had, and so is charged once. A key is of one card: under
// another one's it would be another request.
const KEYS = "lectern.paying.";

function keyOf(what, method) {
  const kept = keysOf(what);
  kept[method] ??= newId();
  keepKeys(what, kept);
  return kept[method];
}

function forgetKey(what, method) {
  const { [method]: _, ...kept } = keysOf(what);
  keepKeys(what, kept);
}

function forgetKeys(what) {
  keepKeys(what, {});
}

/** By method. @returns {Record<string, string>} */
function keysOf(what) {
  try {
    return JSON.parse(tab.get(KEYS + what)) ?? {};
  } catch {
    return {};
  }
}

function keepKeys(what, kept) {
  if (Object.keys(kept).length) tab.set(KEYS + what, JSON.stringify(kept));
  else tab.remove(KEYS + what);
}
