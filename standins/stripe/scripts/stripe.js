/**
 * What stands in for Stripe.js: the part of its interface that takes a card and has a payment approved.
 *
 *   const stripe = Stripe(publishableKey);
 *   const elements = stripe.elements({ mode: "payment", currency: "usd", amount: 4900 });
 *   elements.create("payment").on("change", () => {}).mount(node);
 *   await elements.submit();                                  // {error?}
 *   await stripe.createPaymentMethod({ elements });           // {paymentMethod} or {error}
 *   await stripe.handleNextAction({ clientSecret });          // {paymentIntent} or {error}
 */
(() => {
  const { origin } = new URL(document.currentScript.src);

  /** Asks a frame of ours, and waits for its answer. */
  function ask(frame, question) {
    return new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = ({ data }) => resolve(data);
      frame.contentWindow.postMessage(question, origin, [port2]);
    });
  }

  class PaymentElement {
    constructor() {
      this.frame = document.createElement("iframe");
      this.frame.src = `${origin}/elements/payment`;
      this.frame.title = "Card";
      this.frame.style.cssText = "width: 100%; height: 19rem; border: 0; background: #fff";
      this.loaded = new Promise((resolve) => this.frame.addEventListener("load", resolve, { once: true }));
    }

    mount(place) {
      (typeof place === "string" ? document.querySelector(place) : place).append(this.frame);
    }

    unmount() {
      this.frame.remove();
    }

    destroy() {
      this.frame.remove();
    }

    on(event, listener) {
      if (event === "ready") this.loaded.then(() => listener({ elementType: "payment" }));
      if (event === "change") {
        window.addEventListener("message", ({ origin: from, source, data }) => {
          if (from === origin && source === this.frame.contentWindow && data === "changed") listener({ elementType: "payment" });
        });
      }
      return this;
    }
  }

  class Elements {
    constructor(key) {
      this.key = key;
      this.element = null;
    }

    create(type) {
      if (type !== "payment" && type !== "card") throw new Error(`This stand-in has no element ${type}.`);
      this.element = new PaymentElement();
      return this.element;
    }

    async submit() {
      await this.element.loaded;
      return ask(this.element.frame, { do: "check" });
    }
  }

  async function createPaymentMethod(key, elements) {
    await elements.element.loaded;
    return ask(elements.element.frame, { do: "create", key });
  }

  function handleNextAction(clientSecret) {
    const id = clientSecret.split("_secret_")[0];
    const veil = document.createElement("dialog");
    const frame = document.createElement("iframe");
    frame.src = `${origin}/3d_secure/${id}?client_secret=${encodeURIComponent(clientSecret)}`;
    frame.title = "Your bank asks";
    frame.style.cssText = "width: min(28rem, 90vw); height: 24rem; border: 0; background: #fff";
    veil.append(frame);
    document.body.append(veil);
    veil.showModal();
    return new Promise((resolve) => {
      const end = (answer) => {
        window.removeEventListener("message", hear);
        veil.remove();
        resolve(answer);
      };
      const hear = (event) => {
        if (event.origin !== origin || event.source !== frame.contentWindow || event.data !== "answered") return;
        end({ paymentIntent: { id } });
      };
      window.addEventListener("message", hear);
      veil.addEventListener("cancel", () => end({ error: { type: "validation_error", message: "You did not answer." } }));
    });
  }

  window.Stripe = (key) => ({
    elements: () => new Elements(key),
    createPaymentMethod: ({ elements }) => createPaymentMethod(key, elements),
    handleNextAction: ({ clientSecret }) => handleNextAction(clientSecret),
  });
})();
