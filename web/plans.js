/**
 * Plans and payments: what can be subscribed to, one's own subscription, cards, and what was paid.
 */
import { explain } from "./api.js";
import { checkout } from "./checkout.js";
import { h, oneAtATime, setText } from "./dom.js";
import { plural, price } from "./format.js";

const PERIODS = { monthly: "a month", yearly: "a year" };
const STATES = {
  incomplete: "waits for your bank",
  active: "active",
  past_due: "could not be charged: choose another card",
  canceled: "has ended",
};
// What a subscription stands as where it is paid; any other is over, and the next one is another.
const STANDINGS = { incomplete: "open", active: "paid", past_due: "paid" };

/**
 * @param {object} options
 * @param {import("./api.js").Api} options.api
 */
export async function plansPage({ api }) {
  const root = h("div", { class: "page narrow plans" });
  const show = async () => {
    const parts = await sections(api, show);
    // What was pressed is made anew, and what stands in its place may be another card's.
    const lost = root.contains(document.activeElement) || document.activeElement === document.body;
    root.replaceChildren(...parts);
    if (lost) root.querySelector("h1").focus({ preventScroll: true });
  };
  await show();
  return root;
}

async function sections(api, again) {
  const told = h("p", { role: "status" });
  const [plans, subscriptions] = await Promise.all([api.plans(), api.user ? api.subscriptions() : []]);
  const live = subscriptions.find(({ status }) => status !== "canceled");
  const telling = (work) =>
    oneAtATime(async () => {
      try {
        await work();
        await again();
      } catch (error) {
        setText(told, explain(error));
      }
    });
  const parts = [h("h1", { tabindex: "-1" }, "Plans"), told];
  if (live) parts.push(await mine(api, live, telling, again));
  parts.push(...plans.map((plan) => planCard(api, plan, live, telling, again)));
  if (plans.length === 0) parts.push(h("p", { class: "quiet" }, "There is nothing to subscribe to here."));
  if (!api.user) parts.push(h("p", null, h("a", { class: "plain", href: "#/signin?next=%23/plans" }, "Sign in to subscribe")));
  if (api.user) parts.push(await cards(api, telling), await paid(api, told));
  return parts;
}

async function mine(api, row, telling, again) {
  const until = row.current_period_end && day(row.current_period_end);
  const goesOn = row.cancel_at_period_end ? "; ends on " : "; renewed on ";
  const end = () => api.endSubscription(row.id);
  const keep = () => api.changeSubscription(row.id, { cancel_at_period_end: false });
  return h(
    "section",
    { class: "card entry mine", "aria-label": "Your subscription" },
    h("h2", null, row.plan_name),
    h("p", null, `${price(row)} ${PERIODS[row.billing_period]}, ${STATES[row.status]}`, until && [goesOn, until], "."),
    row.cancel_at_period_end
      ? h("button", { class: "plain", type: "button", onclick: telling(keep) }, "Keep it")
      : h("button", { class: "plain", type: "button", onclick: telling(end) }, "Cancel it"),
    row.status === "past_due" && (await cardForm(api, row, again)),
  );
}

/** By another card, which pays what is due at once. */
function cardForm(api, row, again) {
  const form = checkout({
    api,
    action: "Pay by this card",
    what: `subscription.${row.id}`,
    currency: row.currency,
    amount: Number(row.price),
    pay: (payment_method_id) => api.changeSubscription(row.id, { payment_method_id }),
    standing: async () => "paid",
    done: again,
  });
  return form.catch((error) => h("p", { class: "failure", role: "alert" }, explain(error)));
}

function planCard(api, plan, live, telling, again) {
  const card = h("section", { class: "card entry plan", "aria-label": plan.plan_name }, h("h2", null, plan.plan_name));
  const covers = plan.courses === "all" ? "All courses." : `${plural(plan.courses.length, "course")}.`;
  const failure = h("p", { class: "failure", role: "alert", hidden: true });
  const till = h("div");
  card.append(h("p", null, covers), failure);
  for (const period of Object.keys(PERIODS)) {
    const cost = { price: plan.prices[period], currency: plan.currency };
    const text = `${price(cost)} ${PERIODS[period]}`;
    const same = live && live.plan_name === plan.plan_name && live.billing_period === period;
    if (!api.user || same) {
      card.append(h("p", null, same ? `${text}: yours` : text));
    } else if (live) {
      const change = () => api.changeSubscription(live.id, { plan_name: plan.plan_name, billing_period: period });
      card.append(h("p", null, h("button", { class: "plain", type: "button", onclick: telling(change) }, `Change to ${text}`)));
    } else {
      const begin = oneAtATime(async () => {
        if (till.dataset.period === period) return;
        till.dataset.period = period;
        failure.hidden = true;
        try {
          const form = await subscribeForm(api, plan, period, text, again);
          if (till.dataset.period === period) till.replaceChildren(form); // in place of the other period's
        } catch (error) {
          if (till.dataset.period === period) delete till.dataset.period;
          setText(failure, explain(error));
          failure.hidden = false;
        }
      });
      card.append(h("p", null, h("button", { class: "plain", type: "button", onclick: begin }, `Subscribe for ${text}`)));
    }
  }
  card.append(till);
  return card;
}

function subscribeForm(api, plan, billing_period, text, again) {
  return checkout({
    api,
    action: `Pay ${text}`,
    what: `plan.${plan.id}.${billing_period}`,
    currency: plan.currency,
    amount: Number(plan.prices[billing_period]),
    pay: (payment_method_id, key) => api.subscribe({ plan_name: plan.plan_name, billing_period, payment_method_id }, key),
    standing: async (answer) => STANDINGS[(await api.subscription(answer.id)).status] ?? "over",
    done: again,
  });
}

async function cards(api, telling) {
  const methods = await api.paymentMethods();
  const row = (method) =>
    h(
      "li",
      null,
      `${method.brand} ending in ${method.card_last_four}, ${method.card_expiry} `,
      h("button", { class: "link", type: "button", onclick: telling(() => api.deletePaymentMethod(method.id)) }, "Forget it"),
    );
  return h(
    "section",
    { class: "card entry", "aria-label": "Cards" },
    h("h2", null, "Cards"),
    methods.length ? h("ul", null, ...methods.map(row)) : h("p", { class: "quiet" }, "None is kept."),
  );
}

async function paid(api, told) {
  const rows = h("tbody");
  const more = h("button", { class: "plain", type: "button", hidden: true }, "Show more");
  const add = (page) => {
    rows.append(...page.items.map(transactionRow));
    more.hidden = page.next === null;
    more.onclick = oneAtATime(() => api.more(page.next).then(add, (error) => setText(told, explain(error))));
  };
  add(await api.transactions());
  const head = h("tr", null, ...["When", "What", "Amount", "State"].map((name) => h("th", { scope: "col" }, name)));
  return h(
    "section",
    { class: "card entry", "aria-label": "Payments" },
    h("h2", null, "Payments"),
    rows.children.length ? h("table", { class: "paid" }, h("thead", null, head), rows) : h("p", { class: "quiet" }, "Nothing was paid."),
    more,
  );
}

/** @param {string} at */
function day(at) {
  return h("time", null, new Date(at).toLocaleDateString());
}

function transactionRow(row) {
  const what = row.course_id ? h("a", { href: `#/courses/${row.course_id}` }, "Course") : "Subscription";
  const back = Number(row.refunded_amount) > 0 ? `, ${price({ price: row.refunded_amount, currency: row.currency })} back` : "";
  const cells = [day(row.created_at), what, price({ price: row.amount, currency: row.currency }) + back];
  return h("tr", null, ...cells.map((cell) => h("td", null, cell)), h("td", null, row.status.replaceAll("_", " ")));
}
