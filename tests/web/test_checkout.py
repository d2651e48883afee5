"""The form that pays: under which keys it sends what, whatever becomes of an answer."""

from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page

from tests.web.stage import until

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

# The form before a server and a Stripe that do what `answers` and `standings` say, else it is paid.
FORM = """async () => {
    const { checkout } = await import("/web/checkout.js");
    const { Problem } = await import("/web/api.js");
    window.till = { sent: [], kept: [], answers: [], standings: [], changed: () => {}, done: false, asked: 0 };
    window.Stripe = () => ({
        elements: () => ({
            create: () => ({ on: (event, told) => (window.till[event + "d"] = told), mount() {} }),
            submit: async () => ({}),
        }),
        createPaymentMethod: async () => ({ paymentMethod: { id: `pm_${window.till.kept.length + 1}` } }),
        handleNextAction: async () => (window.till.asked++, {}),
    });
    const card = (id) => ({ id, brand: "visa", card_last_four: "4242", card_expiry: "12/2034", is_default: false });
    const api = {
        paymentProvider: async () => ({ publishable_key: "pk", script_url: "/web/stripe-of-this-test.js" }),
        paymentMethods: async () => [card("one"), card("two")],
        addPaymentMethod: async (token) => (window.till.kept.push(token), { id: token }),
    };
    window.till.api = api;
    document.body.append(await checkout({
        api, action: "Pay", what: "course.1", currency: "usd", amount: 49,
        pay: async (method, key) => {
            window.till.sent.push([method, key]);
            const [status, body] = window.till.answers.shift() ?? [201];
            if (status < 200 || status >= 400) throw new Problem(status, body ?? {});
            return { client_secret: status === 202 ? "secret" : null };
        },
        standing: async () => window.till.standings.shift() ?? "paid",
        done: () => (window.till.done = true),
    }));
}"""


class Till:
    """The form, and who pays at it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def pay(self, card: str, *answers: list[Any], standings: list[str] | None = None) -> list[tuple[str, str]]:
        """Pay by a card ("" is the one in Stripe's form) and be answered so; what was sent, and under which keys."""
        await self.page.evaluate("(told) => Object.assign(till, told, { sent: [] })",
                                 {"answers": answers, "standings": standings or []})  # fmt: skip
        await self.page.check(f"input[value='{card}']")
        await self.page.click("button[type=submit]")
        await until(self.page, "!document.querySelector('button[type=submit]').disabled")
        return [tuple(each) for each in await self.page.evaluate("till.sent")]

    async def told(self) -> str:
        """What the form says to who pays."""
        return await self.page.inner_text("[role=alert]")


@pytest_asyncio.fixture(loop_scope="session")
async def till(origin: str, page: Page) -> Till:
    await page.route(
        "**/web/stripe-of-this-test.js", lambda route: route.fulfill(body="", content_type="text/javascript")
    )
    await page.goto(f"{origin}/bare")
    await page.evaluate(FORM)
    return Till(page)


async def test_what_was_cut_off_is_sent_again_under_its_key_and_another_card_under_its_own(till: Till) -> None:
    [(_, first)] = await till.pay("one", [503])
    [(_, second)] = await till.pay("two", [503])
    assert first != second
    assert await till.pay("one", [0]) == [("one", first)]
    assert await till.pay("two", [409, {"code": "idempotency_key_in_use", "retryable": True}]) == [("two", second)]
    assert await till.pay("two", [402, {"code": "card_declined"}]) == [("two", second)]
    [(_, third)] = await till.pay("two")
    assert third not in (first, second)
    assert await till.page.evaluate("till.done && sessionStorage.length === 0")


async def test_a_new_card_is_kept_once_and_sent_again_as_long_as_it_is_the_same(till: Till) -> None:
    [(card, key)] = await till.pay("", [503])
    assert await till.pay("", [503]) == [(card, key)]
    await till.page.evaluate("till.changed()")
    [(another, other_key)] = await till.pay("", [402, {"code": "card_declined"}])
    assert (another, other_key) != (card, key)
    await till.pay("")
    assert await till.page.evaluate("till.kept") == ["pm_1", "pm_2", "pm_3"]


async def test_what_the_bank_has_refused_is_begun_anew(till: Till) -> None:
    [(_, key)] = await till.pay("one", [202], standings=["open", "over"])
    assert await till.told() == "The bank refused it, and nothing was charged."
    # Under its key the first answer comes once more.
    again, anew = await till.pay("one", [202], [201], standings=["over", "paid"])
    assert (again, anew[0], anew[1] != key) == (("one", key), "one", True)
    assert await till.page.evaluate("till.done")


# A page that sells, before a server that first says `status` of what was bought, and then that it is paid.
SOLD = """async ([what, status]) => {
    const { coursePage } = await import("/web/catalogue.js");
    const { plansPage } = await import("/web/plans.js");
    const { Problem } = await import("/web/api.js");
    let [sent, done] = [0];
    const finished = new Promise((resolve) => (done = resolve));
    const statuses = [status];
    const buy = async () => ({ id: `${++sent}`, transaction: { id: `${sent}` }, client_secret: "secret" });
    const look = async () => ({ status: statuses.shift() ?? { course: "succeeded", plan: "active" }[what] });
    const prices = { monthly: "9.00", yearly: "90.00" };
    const api = {
        ...till.api,
        user: {},
        course: async () => ({ id: "1", title: "Queues", price: "49.00", currency: "usd", is_free: false }),
        lectures: async () => [{ id: "1", title: "One" }],
        lecture: async () => { throw new Problem(403, { code: "not_entitled" }); },
        plans: async () => [{ id: "1", plan_name: "All", prices, currency: "usd", courses: "all" }],
        subscriptions: async () => (sent && done(), []),
        transactions: async () => ({ items: [], next: null }),
        purchase: buy, subscribe: buy, transaction: look, subscription: look,
    };
    till.asked = 0;
    const page = await { course: coursePage, plan: plansPage }[what]({ api, courseId: "1", navigate: done });
    document.body.replaceChildren(page);
    page.querySelector({ course: ".primary", plan: ".plan button" }[what]).click();
    while (!page.querySelector("form")) await new Promise((resolve) => setTimeout(resolve));
    page.querySelector("input[value=one]").checked = true;
    page.querySelector("form").requestSubmit();
    await finished;
    return [sent, till.asked];
}"""


# By what is sold and its status, how often it is sent, and how often the bank is asked.
STANDINGS = {
    **{("course", status): [1, 1] for status in ("pending", "requires_action")},
    **{("course", status): [1, 0] for status in ("succeeded", "partially_refunded")},
    **{("course", status): [2, 0] for status in ("failed", "canceled", "refunded", "disputed")},
    ("plan", "incomplete"): [1, 1],
    **{("plan", status): [1, 0] for status in ("active", "past_due")},
    ("plan", "canceled"): [2, 0],
}


async def test_what_is_open_is_asked_for_what_is_paid_is_had_and_all_else_is_bought_anew(till: Till) -> None:
    became = {each: await till.page.evaluate(SOLD, list(each)) for each in STANDINGS}
    assert became == STANDINGS


# The plans of somebody whose card was refused, where the provider cannot be reached at first.
PAST_DUE = """async () => {
    const { plansPage } = await import("/web/plans.js");
    const { Problem } = await import("/web/api.js");
    const prices = { monthly: "9.00", yearly: "90.00" };
    const cost = { price: "9.00", amount: "9.00", currency: "usd" };
    const row = { id: "1", plan_name: "All", billing_period: "monthly", status: "past_due", ...cost };
    const bought = [1, 2].map((id) => ({ id, created_at: "2030-01-01", status: "succeeded", ...cost }));
    const api = {
        ...till.api,
        user: {},
        plans: async () => [{ id: "1", plan_name: "All", prices, currency: "usd", courses: ["1"] }],
        subscriptions: async () => (till.subscribed ? [row] : []),
        changeSubscription: async (id, wish) => (till.sent.push(wish), { ...row, status: "active" }),
        transactions: async () => ({ items: bought.slice(0, 1), next: "more" }),
        more: async () => ({ items: bought.slice(1), next: null }),
    };
    const { paymentMethods } = api;
    api.paymentMethods = async () => {
        if (till.away) throw new Problem(0);
        return paymentMethods();
    };
    till.show = async () => document.body.replaceChildren(await plansPage({ api }));
    await till.show();
}"""


async def test_who_could_not_be_charged_pays_by_another_card(till: Till) -> None:
    await till.page.evaluate("(till.subscribed = true, void 0)")
    await till.page.evaluate(PAST_DUE)
    await till.page.check(".mine input[value=two]")
    await till.page.click("text=Pay by this card")
    await until(till.page, "till.sent.length > 0")
    assert await till.page.evaluate("till.sent") == [{"payment_method_id": "two"}]


async def test_on_the_page_of_plans_what_failed_may_be_tried_again_and_what_is_clicked_twice_is_done_once(
    till: Till,
) -> None:
    page = till.page
    await page.evaluate(PAST_DUE)
    assert await page.inner_text(".plan p") == "1 course."
    await page.evaluate("till.away = true")
    await page.click("text=Subscribe for $9.00 a month")
    await page.get_by_text("The server cannot be reached.").wait_for()
    await page.evaluate("till.away = false")
    await page.click("text=Subscribe for $9.00 a month")
    await page.get_by_role("button", name="Pay $9.00 a month").wait_for()
    assert await page.get_by_text("The server cannot be reached.").is_hidden()
    # One pays for one of them.
    await page.click("text=Subscribe for $90.00 a year")
    await page.get_by_role("button", name="Pay $90.00 a year").wait_for()
    assert await page.locator("form.checkout").count() == 1
    await page.get_by_role("button", name="Show more").evaluate("button => { button.click(); button.click(); }")
    await page.get_by_role("button", name="Show more").wait_for(state="hidden")
    assert await page.locator(".paid tbody tr").count() == 2
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.add_style_tag(url="/web/style.css")
    assert await page.evaluate("document.documentElement.scrollWidth") == 360


async def test_where_the_provider_is_blocked_it_is_said_and_not_taken_for_the_server(origin: str, page: Page) -> None:
    await page.route("**/web/stripe-of-this-test.js", lambda route: route.abort())
    await page.goto(f"{origin}/bare")
    said = await page.evaluate(
        """async () => {
            const [{ checkout }, { explain }] = await Promise.all([import("/web/checkout.js"), import("/web/api.js")]);
            const api = {
                paymentProvider: async () => ({ publishable_key: "pk", script_url: "/web/stripe-of-this-test.js" }),
                paymentMethods: async () => [],
            };
            return checkout({ api }).catch(explain);
        }"""
    )
    assert said.startswith("What takes your card did not come.")
