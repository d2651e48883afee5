/**
 * What waits for an operator: events of Stripe that were of no use, and jobs that were given up, with why.
 */
import { h } from "./dom.js";

/** @param {{api: import("./api.js").Api}} options */
export async function opsPage({ api }) {
  const [events, jobs] = await Promise.all([api.deadEvents(), api.deadJobs()]);
  return h(
    "div",
    { class: "page narrow plans" },
    h("h1", { tabindex: "-1" }, "Operations"),
    section("Dead events of Stripe", "bin/admin events retry", events, ({ id, type, reason, facts, created_at }) => [
      [created_at, type, id],
      reason,
      facts,
    ]),
    section("Dead jobs", "bin/admin jobs retry", jobs, ({ id, kind, error, payload, attempts, dead_at }) => [
      [dead_at, kind, id],
      `${error ?? "No reason is known"} (tried ${attempts} times)`,
      payload,
    ]),
  );
}

function section(title, command, rows, tell) {
  const entries = rows.map((row) => {
    const [[at, kind, id], why, facts] = tell(row);
    const when = h("time", { datetime: at }, new Date(at).toLocaleString());
    return h(
      "li",
      null,
      h("p", null, h("b", null, kind), " ", when, " ", h("code", null, id)),
      h("p", null, why),
      h("p", { class: "quiet" }, JSON.stringify(facts)),
    );
  });
  return h(
    "section",
    { class: "card entry", "aria-label": title },
    h("h2", null, title),
    rows.length ? h("p", { class: "quiet" }, "Once more: ", h("code", null, command)) : h("p", { class: "quiet" }, "None."),
    rows.length > 0 && h("ul", null, ...entries),
  );
}
