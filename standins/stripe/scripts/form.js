/** The card form of a frame: the page around it asks for a payment method and gets its id, never the number. */
const field = (id) => document.getElementById(id);

field("offered").addEventListener("change", ({ target }) => (field("number").value = target.value));
field("card").addEventListener("input", () => window.parent.postMessage("changed", "*"));
field("card").addEventListener("submit", (event) => event.preventDefault());

function check() {
  const digits = field("number").value.replaceAll(/[ -]/g, "");
  const expiry = /^(0?[1-9]|1[0-2])\s*\/\s*(\d{2}|\d{4})$/.exec(field("expiry").value.trim());
  const message = !/^\d{12,19}$/.test(digits)
    ? "Your card number is incomplete."
    : !expiry
      ? "Your card's expiration date is incomplete."
      : !/^\d{3,4}$/.test(field("cvc").value)
        ? "Your card's security code is incomplete."
        : "";
  field("fault").textContent = message;
  return message ? { error: { type: "validation_error", message } } : { digits, month: expiry[1], year: expiry[2] };
}

async function create(key) {
  const card = check();
  if (card.error) return card;
  const form = new URLSearchParams({
    type: "card",
    "card[number]": card.digits,
    "card[exp_month]": String(Number(card.month)),
    "card[exp_year]": card.year,
    "card[cvc]": field("cvc").value,
  });
  const answer = await fetch("/v1/payment_methods", { method: "POST", body: form, headers: { Authorization: `Bearer ${key}` } });
  const said = await answer.json();
  if (said.error) field("fault").textContent = said.error.message;
  return said.error ? { error: said.error } : { paymentMethod: { id: said.id, card: said.card } };
}

window.addEventListener("message", async ({ data, ports: [port] }) => {
  if (!port) return;
  if (data.do === "create") {
    port.postMessage(await create(data.key));
  } else {
    const { error } = check();
    port.postMessage(error ? { error } : {});
  }
});
