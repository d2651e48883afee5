"""Whatever happens to purchases, subscriptions and gifts, in whatever order: who has paid or was let in has access,
nobody else has, and nobody pays twice.

A machine of hypothesis' buys, subscribes, approves, declines, gives up, renews, ends, refunds, disputes, is let in,
loses answers, dies half-way, tells events late and twice, and does jobs when it likes; after each step both sides of
the rule are asked of Postgres, and at the end, when everything was told and done, our books are Stripe's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from server.data.jobs import Jobs
from server.http.keys import CHARGING, CONFIG, DATABASE, PAYMENT_EVENTS, SUBSCRIBING
from tests.support import app as application
from tests.support.jobs import run_due
from tests.support.people import Answer, People, Person
from tests.support.shop import ENROLLED_WITHOUT_PAYING, WEBHOOK, Shop
from tests.support.stripe import LocalService, payment_service

T = TypeVar("T")
CARDS = ("visa", "threeDSecure2Required", "chargeCustomerFail")
PLANS = [
    {"plan_name": "all", "monthly": "9.00", "yearly": "90.00", "currency": "usd", "courses": "all"},
    {"plan_name": "pro", "monthly": "29.00", "yearly": "290.00", "currency": "usd", "courses": "all"},
]
CHANGES = (
    *({"plan_name": plan["plan_name"]} for plan in PLANS),
    *({"card": card} for card in ("visa", "chargeCustomerFail")),
    *({"cancel_at_period_end": ends} for ends in (True, False)),
)
FATES = (None, None, None, "lose", "cut")
# Each is tried as often: left to chance, some would never come.
BEGINNINGS = (None, "subscription", "late subscription", "too late subscription", "purchase", "gift and purchase")
SUBSCRIPTIONS = "/api/payments/subscriptions"
NEVER_S = 3600.0
MONTH_S = 31 * 86_400 + 7200
# A dispute is watched over until it is decided, which may be never, and a subscription until it has ended.
LEFT_OVER = "SELECT count(*) FROM jobs WHERE kind NOT IN ('payment_dispute', 'subscription_look')"
# By what somebody may be in a course, whether they are, and by what they are enrolled.
RIGHTS = """
    SELECT
        EXISTS (SELECT FROM transactions WHERE user_id = $1 AND course_id = $2 AND is_paid(status)) AS purchase,
        EXISTS (SELECT FROM subscriptions
                WHERE user_id = $1 AND (
                    (status = 'past_due' AND past_due_since > now() - interval '7 days')
                    OR (status = 'active' AND current_period_end > now()))) AS subscription,
        entitled($1, 'student', $2) AS is_entitled,
        (SELECT source FROM shown_enrollments WHERE user_id = $1 AND course_id = $2 AND is_active) AS source
"""
# Stripe's time alone goes on: here everything becomes so much older.
A_MONTH_LATER = """
    UPDATE transactions SET created_at = created_at - interval '31 days';
    UPDATE subscriptions SET created_at = created_at - interval '31 days';
    UPDATE refunds SET created_at = created_at - interval '31 days';
    UPDATE jobs SET created_at = created_at - interval '31 days';
    DELETE FROM idempotency_keys;
"""


class Scene:
    """An application and a Stripe on a loop of their own, for all examples; jobs are done when one says so."""

    def __init__(self, dsn: str, redis_url: str, directory: Path) -> None:
        self._dsn, self._redis_url, self._directory = dsn, redis_url, directory
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stack = AsyncExitStack()
        self.stripe: LocalService
        self.shop: Shop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What it gives."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    @contextmanager
    def running(self) -> Iterator[Scene]:
        """From here on."""
        self._thread.start()
        try:
            self.run(self._start())
            yield self
        finally:
            self.run(self._stack.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _start(self) -> None:
        self.stripe = await self._stack.enter_async_context(payment_service(self._directory))
        config = application.settings(
            self._dsn,
            self._redis_url,
            stripe=self.stripe.settings,
            plans=PLANS,
            jobs={"poll_s": NEVER_S, "reconcile_s": NEVER_S},
            breaker={"failures": 1000},
            limits={name: {"rate": 0} for name in ("auth", "read", "write", "login_address")},
        )
        client = await self._stack.enter_async_context(application.serving(config))
        self.app = client.app
        await self.stripe.tell(str(client.make_url(WEBHOOK)))
        await self.stripe.control("POST", "webhooks", mode="hold")
        self.sql = await asyncpg.connect(self._dsn)
        self._stack.push_async_callback(self.sql.close)
        people = People(client, self.sql)
        teacher = await people.join("teacher", "instructor")
        self.admin = await people.join("root", "admin")
        self.shop = Shop(people, teacher, self.stripe, self.sql, None)

    async def work(self) -> None:
        """Do every job once, whenever it is due."""
        assert self.app is not None
        await self.sql.execute("UPDATE jobs SET run_at = now() WHERE dead_at IS NULL")
        works = self.app[CHARGING].works | self.app[PAYMENT_EVENTS].works | self.app[SUBSCRIBING].works
        jobs = Jobs(self.app[DATABASE], self.app[CONFIG].jobs, works)
        while await run_due(jobs):
            pass

    async def settle(self) -> None:
        """Tell and do all, until nothing is left; what could be abandoned is."""
        for _ in range(10):
            await self.stripe.control("POST", "webhooks/deliver")
            await self.sql.execute("UPDATE jobs SET created_at = created_at - interval '2 hours'")
            await self.work()
            if not await self.sql.fetchval(LEFT_OVER):
                break
        await self.stripe.control("POST", "webhooks/deliver")
        assert await self.sql.fetch("SELECT * FROM jobs WHERE dead_at IS NOT NULL") == []
        assert await self.sql.fetch("SELECT * FROM webhook_events WHERE status = 'dead'") == []

    async def pass_a_month(self) -> None:
        """What is to be renewed is, as far as it can be paid."""
        await self.stripe.advance(MONTH_S)
        await self.sql.execute(A_MONTH_LATER)


class Money(RuleBasedStateMachine):
    """One student and one course."""

    scene: Scene
    has: str | None

    def __init__(self) -> None:
        super().__init__()
        self.has_left = False
        self.was_let_in = False
        # Payments of subscriptions that their customer was asked to approve.
        self.asked: list[str] = []
        self.keys = [uuid4().hex for _ in range(3)]

    @initialize(fate=st.sampled_from(FATES))
    def open(self, fate: str | None) -> None:
        """Somebody new, who may have something already, and a new course."""
        has = self.has
        self.run(self._open())
        if has == "purchase":
            self.buy("visa", fate, 0)
        elif has == "gift and purchase":  # let in while the bank was asking
            self.buy("threeDSecure2Required", None, 0)
            self.let_in()
            [row] = self.transactions()
            self.quietly(f"payment_intents/{row['transaction_reference']}/authenticate", approved=True)
            self.run(self.scene.stripe.control("POST", "webhooks/deliver"))
        elif has is not None:
            self.subscribe("all", "visa", fate, 0)
            if "too late" in has:  # and it is what they are enrolled by
                self.come_back()
            if "late" in has:
                self.fail_to_renew()
                self.run(self.scene.stripe.control("POST", "webhooks/deliver"))
            if "too late" in has:
                self.lose_patience()

    async def _open(self) -> None:
        shop = self.scene.shop
        shop.course = await shop.make_course()
        self.ada: Person = await shop.people.join(uuid4().hex)
        self.cards = {card: (await shop.add_card(self.ada, card))["id"] for card in CARDS}

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """On the scene's loop."""
        return self.scene.run(work)

    def ask(self, method: str, path: str, *, person: Person | None = None, **body: Any) -> Answer:
        """One request, never a fault of ours."""
        answer = self.run((person or self.ada).ask(method, path, body or None))
        assert answer.status != 500, answer.body
        return answer

    def transactions(self) -> list[Any]:
        """The student's, the newest first."""
        items: list[Any] = self.ask("GET", "/api/payments/transactions").body["items"]
        return items

    def under(self, fate: str | None, path: str, ask: Callable[[], Answer]) -> Answer:
        """What is answered while every answer of Stripe's to such a request is lost, or the request never arrives: what
        a kill -9 leaves behind, after or before Stripe acted, is the row, its job, and no answer."""
        stripe = self.scene.stripe
        if fate is None:
            return ask()
        for method in ("POST", "DELETE"):
            self.run(stripe.control("POST", "answers", do=fate, method=method, path=path, times=9))
        answer = ask()
        self.run(stripe.control("DELETE", "answers"))
        self.run(self.scene.sql.execute("DELETE FROM idempotency_keys"))
        return answer

    # -- what people do ------------------------------------------------------------------------------------------------

    @rule(card=st.sampled_from(CARDS), fate=st.sampled_from(FATES), key=st.integers(0, 2))
    def buy(self, card: str, fate: str | None, key: int) -> None:
        """Whatever comes of it."""
        wish = {"key": self.keys[key], "payment_method_id": self.cards[card]}
        path = "/v1/payment_intents"
        answer = self.under(fate, path, lambda: self.run(self.scene.shop.buy(self.ada, **wish)))
        assert answer.status in (201, 202, 402, 409, 422, 503 if fate else 201), answer.body
        if answer.status == 201 and answer.headers.get("Idempotency-Replayed") is None:
            self.has_left = False

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """One of all, also of those that are decided."""
        if rows := self.transactions():
            row = data.draw(st.sampled_from(rows))
            assert self.ask("DELETE", f"/api/payments/transactions/{row['id']}").status in (200, 409)

    @rule(data=st.data(), amount=st.sampled_from(["10.00", None]), fate=st.sampled_from([None, "lose", "cut"]))
    def refund(self, data: st.DataObject, amount: str | None, fate: str | None) -> None:
        """A part or all, with or without an answer."""
        if rows := self.transactions():
            row, stripe = data.draw(st.sampled_from(rows)), self.scene.stripe
            if fate:
                self.run(stripe.control("POST", "answers", do=fate, path="/v1/refunds", times=9))
            body = {"amount": amount} if amount else {"reason": "all"}
            path = f"/api/payments/transactions/{row['id']}/refund"
            assert self.ask("POST", path, person=self.scene.admin, **body).status in (200, 202, 409, 422, 502)
            self.run(stripe.control("DELETE", "answers"))

    @rule(
        plan=st.sampled_from(["all", "pro"]),
        card=st.sampled_from(CARDS),
        fate=st.sampled_from(FATES),
        key=st.integers(0, 1),
    )
    def subscribe(self, plan: str, card: str, fate: str | None, key: int) -> None:
        """Whatever comes of it; the same wish under the same key is the same request."""
        body = {"plan_name": plan, "billing_period": "monthly", "payment_method_id": self.cards[card]}
        headers = {"Idempotency-Key": f"{self.keys[key]}-{plan}-{card}"}

        def ask() -> Answer:
            return self.run(self.ada.post("/api/payments/subscribe", body, headers=headers))

        answer = self.under(fate, "/v1/subscriptions", ask)
        assert answer.status in (201, 202, 402, 409, 503 if fate else 201), answer.body
        if answer.status == 202:
            self.asked.append(answer.body["client_secret"].partition("_secret_")[0])

    @rule(wish=st.sampled_from(CHANGES), fate=st.sampled_from(FATES))
    def change(self, wish: dict[str, Any], fate: str | None) -> None:
        """The newest subscription: its plan, its card, or whether it goes on."""
        body = {"payment_method_id": self.cards[wish["card"]]} if "card" in wish else wish
        for row in self.newest_subscription():
            path = f"{SUBSCRIPTIONS}/{row['id']}"
            answer = self.under(fate, "/v1/", lambda: self.ask("PUT", path, **body))  # noqa: B023 - at once
            assert answer.status in (200, 402, 409, 503 if fate else 200), answer.body

    @rule(now=st.booleans(), fate=st.sampled_from(FATES))
    def end(self, now: bool, fate: str | None) -> None:
        """The newest subscription."""
        for row in self.newest_subscription():
            path = f"{SUBSCRIPTIONS}/{row['id']}" + "?now=true" * now
            answer = self.under(fate, "/v1/", lambda: self.ask("DELETE", path))  # noqa: B023 - at once
            assert answer.status in (200, 503 if fate else 200), answer.body
            if answer.status == 200:
                assert answer.body["cancel_at_period_end"] or answer.body["status"] == "canceled"

    def newest_subscription(self) -> list[Any]:
        """The student's, if there is one."""
        items: list[Any] = self.ask("GET", f"{SUBSCRIPTIONS}?limit=1").body["items"]
        return items

    # Of what is a rule by itself hypothesis leaves out much in each example; so only what is of another kind is one.
    @rule(how=st.sampled_from(["let_in", "leave", "come_back"]))
    def enrol(self, how: str) -> None:
        """Or end it."""
        getattr(self, how)()

    def let_in(self) -> None:
        """An administrator enrols the student; who is enrolled stays so by what they were enrolled by."""
        course_id = self.scene.shop.course["id"]
        body = {"course_id": course_id, "user_id": self.ada.id}
        answer = self.ask("POST", "/api/enrollments", person=self.scene.admin, **body)
        assert answer.status in (200, 201), answer.body
        self.has_left, self.was_let_in = False, answer.body["source"] == "admin"

    def leave(self) -> None:
        """The course, and come back when it is still paid for."""
        course_id = self.scene.shop.course["id"]
        if self.ask("DELETE", f"/api/enrollments/courses/{course_id}").status == 204:
            self.has_left, self.was_let_in = True, False

    def come_back(self) -> None:
        """As far as it is paid for; nobody lets themselves in."""
        answer = self.ask("POST", "/api/enrollments", course_id=self.scene.shop.course["id"])
        assert answer.status in (200, 201, 402)
        if answer.status != 402:
            self.has_left = False

    # -- what the bank and Stripe do -----------------------------------------------------------------------------------

    @rule(what=st.sampled_from(["answer_the_bank", "dispute", "decide"]), data=st.data(), is_ours=st.booleans())
    def hear_the_bank(self, what: str, data: st.DataObject, is_ours: bool) -> None:
        """It asks its customer, takes money back, and decides whose it is."""
        getattr(self, what)(data, is_ours)

    def answer_the_bank(self, data: st.DataObject, approved: bool) -> None:
        """For one that waits, as far as we know."""
        rows = [row for row in self.transactions() if row["status"] == "requires_action"]
        if waiting := [row["transaction_reference"] for row in rows] + self.asked:
            intent = data.draw(st.sampled_from(waiting))
            self.quietly(f"payment_intents/{intent}/authenticate", approved=approved)

    def dispute(self, data: st.DataObject, _is_ours: bool) -> None:
        """One that was paid."""
        paid = [row for row in self.transactions() if row["status"] == "succeeded"]
        if paid:
            self.quietly("disputes", payment_intent=data.draw(st.sampled_from(paid))["transaction_reference"])

    def decide(self, _data: st.DataObject, won: bool) -> None:
        """Every dispute that is open."""
        for row in self.run(self.scene.sql.fetch("SELECT stripe_id FROM disputes WHERE status = 'open'")):
            self.quietly(f"disputes/{row['stripe_id']}/close", won=won)

    def quietly(self, path: str, **body: Any) -> None:
        """What Stripe refuses does not happen."""
        try:
            self.run(self.scene.stripe.control("POST", path, **body))
        except AssertionError as refused:
            assert "error" in str(refused)  # noqa: PT017

    @rule(data=st.data(), times=st.integers(0, 2))
    def tell(self, data: st.DataObject, times: int) -> None:
        """One of the latest events, also one that was told before; or all that was not."""
        if not times:
            self.run(self.scene.stripe.control("POST", "webhooks/deliver"))
            return
        events = self.run(self.scene.stripe.events())[-30:]
        event = data.draw(st.sampled_from(range(len(events))))
        for _ in range(times):
            assert set(self.run(self.scene.stripe.deliver(events[event]))) == {200}

    # -- what time does ------------------------------------------------------------------------------------------------

    @rule()
    def work(self) -> None:
        """Do all that is to be done later."""
        self.run(self.scene.work())

    @rule(what=st.sampled_from(["expire", "pass_a_month", "fail_to_renew", "lose_patience"]))
    def let_time_go_by(self, what: str) -> None:
        """Some hours, a week, or a month."""
        getattr(self, what)()

    def expire(self) -> None:
        """Two hours go by."""
        self.run(self.scene.sql.execute("UPDATE jobs SET created_at = created_at - interval '2 hours'"))

    def pass_a_month(self) -> None:
        """What is to be renewed is, as far as it can be paid."""
        self.run(self.scene.pass_a_month())

    def fail_to_renew(self) -> None:
        """A month goes by with a card that pays no more."""
        self.change({"card": "chargeCustomerFail"}, None)
        self.pass_a_month()

    def lose_patience(self) -> None:
        """The week is over that is given to those who are late."""
        late = "UPDATE subscriptions SET past_due_since = past_due_since - interval '8 days' WHERE status = 'past_due'"
        self.run(self.scene.sql.execute(late))

    # -- what holds ----------------------------------------------------------------------------------------------------

    @invariant()
    @precondition(lambda self: hasattr(self, "ada"))
    def paid_is_entitled(self) -> None:
        """And nobody is by what is not paid, or given."""
        sql, course_id = self.scene.sql, self.scene.shop.course["id"]
        assert self.run(sql.fetch(ENROLLED_WITHOUT_PAYING)) == []
        [row] = self.run(sql.fetch(RIGHTS, self.ada.id, course_id))
        rights = {name: row[name] for name in ("purchase", "subscription")} | {"admin": self.was_let_in}
        assert row["source"] is None or rights[row["source"]]
        if self.has_left:  # what was bought is at hand again by coming back
            assert rights["subscription"] <= row["is_entitled"] <= any(rights.values())
        else:
            assert row["is_entitled"] == any(rights.values())
            assert row["source"] is not None or not (rights["purchase"] or rights["admin"])

    def teardown(self) -> None:
        """When all was told and done, the books are the same, and nobody has paid twice."""
        if hasattr(self, "ada"):
            self.run(self._settle())

    async def _settle(self) -> None:
        scene = self.scene
        await scene.settle()
        assert scene.app is not None
        billing = scene.app[SUBSCRIBING].billing
        for row in await scene.sql.fetch("SELECT * FROM subscriptions WHERE user_id = $1", self.ada.id):
            theirs = (await billing.get(row["stripe_id"])).status if row["stripe_id"] else "canceled"
            assert row["status"] == theirs.replace("incomplete_expired", "canceled")
            if row["status"] != "canceled":  # or it would be renewed in the next example
                await self.ada.delete(f"{SUBSCRIPTIONS}/{row['id']}?now=true")
        await scene.settle()
        assert not await scene.sql.fetchval("SELECT count(*) FROM subscriptions WHERE status <> 'canceled'")
        if self.has_left:
            scene.shop.left.add(self.ada.id)
        await scene.shop.audit()
        bought = "SELECT status FROM transactions WHERE user_id = $1 AND course_id IS NOT NULL"
        states = [row["status"] for row in await scene.sql.fetch(bought, self.ada.id)]
        assert not {*states} & {"pending", "requires_action"}
        assert [is_paid(status) for status in states].count(True) <= 1


def is_paid(status: str) -> bool:
    """Not all of it was given back."""
    return status in ("succeeded", "partially_refunded")


def test_who_has_paid_is_enrolled_whatever_happens(postgres_dsn: str, redis_url: str, tmp_path: Path) -> None:
    with Scene(postgres_dsn, redis_url, tmp_path).running() as scene:
        for has in BEGINNINGS:
            run_state_machine_as_test(
                type("MoneyHere", (Money,), {"scene": scene, "has": has}),
                settings=settings(
                    max_examples=4,
                    stateful_step_count=16,
                    deadline=None,
                    derandomize=True,
                    suppress_health_check=list(HealthCheck),
                ),
            )
