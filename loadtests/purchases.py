"""A locust scenario of learners who buy a course: each clicks as impatient people do, and must be charged once.

`bin/loadtest --purchases` runs it with defaults against a server whose Stripe takes test cards (`bin/run`);
`locust -f loadtests/purchases.py --host URL` gives locust's own page. A purchase is sent several times at once under
one key and once more under another; afterwards exactly one payment must have gone through and the course be there, or,
with a card that is declined, nothing of it.
"""

from __future__ import annotations

import logging
import sys
import uuid
from pathlib import Path
from typing import Any

import gevent
from locust import HttpUser, constant, events, task
from locust.env import Environment
from locust.runners import LocalRunner, MasterRunner

# Locust knows the folder in which it is run, and this file's own, of which ours is neither.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtests.api import DEFAULT_HOST

AT_ONCE = 3
# One buyer in so many has a card that is declined when it is charged.
DECLINED_EACH = 5
GOOD_CARD, BAD_CARD = "pm_card_visa", "pm_card_chargeCustomerFail"
SETTLES_S, LOOK_S = 30.0, 0.25
PURCHASE = "/api/payments/purchase/course/[id]"
OPEN = ("pending", "requires_action")
# Besides having bought it: it was bought under the other key, is being bought under it, or the key is being answered.
EXPECTED = {201, 202, 402, 409, 503}

log = logging.getLogger(__name__)


class Buyer(HttpUser):
    """A new account for every purchase: nobody buys a course twice."""

    host = DEFAULT_HOST
    wait_time = constant(0)
    token = ""

    @task
    def buy(self) -> None:
        """Register, keep a card, buy impatiently, look at what came of it."""
        name = f"buyer-{uuid.uuid4().hex[:16]}"
        new = {"username": name, "email": f"{name}@example.org", "password": uuid.uuid4().hex}
        self.token = ""
        account = self._ask("POST", "/api/auth/register", json=new)
        if account is None:
            return
        self.token = account["access_token"]
        is_declined = uuid.uuid4().int % DECLINED_EACH == 0
        card = {"token": BAD_CARD if is_declined else GOOD_CARD}
        course = self._course()
        if course is None or self._ask("POST", "/api/payments/methods", json=card) is None:
            return
        keys = [uuid.uuid4().hex] * AT_ONCE + [uuid.uuid4().hex]
        gevent.joinall([gevent.spawn(self._purchase, course["id"], key) for key in keys])
        self._check(course["id"], is_declined=is_declined)

    def _purchase(self, course_id: str, key: str) -> None:
        with self.client.post(
            f"/api/payments/purchase/course/{course_id}",
            json={},
            headers={**self._headers(), "Idempotency-Key": key},
            name=PURCHASE,
            catch_response=True,
        ) as answer:
            if answer.status_code in EXPECTED:
                answer.success()
            else:
                answer.failure(f"{answer.status_code} {answer.text[:200]}")

    def _check(self, course_id: str, *, is_declined: bool) -> None:
        """Charged once and enrolled, or neither."""
        rows: list[dict[str, Any]] = []
        for _ in range(int(SETTLES_S / LOOK_S)):
            rows = (self._ask("GET", "/api/payments/transactions") or {"items": []})["items"]
            if not any(row["status"] in OPEN for row in rows):
                break
            gevent.sleep(LOOK_S)
        paid = [row for row in rows if row["status"] == "succeeded"]
        enrolled = self._ask("GET", "/api/enrollments/users/me") or {"items": []}
        has_it = [row["course_id"] for row in enrolled["items"] if row["is_active"]] == [course_id]
        wanted = 0 if is_declined else 1
        if (len(paid), has_it) != (wanted, not is_declined) or any(row["status"] in OPEN for row in rows):
            told = (
                f"charged {len(paid)} times, enrolled: {has_it}, expected {wanted}; {[row['status'] for row in rows]}"
            )
            failure = RuntimeError(told)
            events.request.fire(
                request_type="CHECK", name="charged once", response_time=0, response_length=0, exception=failure
            )

    def _course(self) -> dict[str, Any] | None:
        wanted = self.environment.parsed_options.course if self.environment.parsed_options else None
        if wanted:
            return self._ask("GET", f"/api/courses/{wanted}", name="/api/courses/[id]")
        found = self._ask("GET", "/api/courses?is_free=false&limit=1", name="/api/courses")
        if not found or not found["items"]:
            failure = LookupError("no published course costs anything")
            events.request.fire(
                request_type="CHECK", name="a course to buy", response_time=0, response_length=0, exception=failure
            )
            return None
        course: dict[str, Any] = found["items"][0]
        return course

    def _ask(self, method: str, path: str, *, name: str | None = None, **more: Any) -> Any:
        with self.client.request(
            method, path, name=name or path, headers=self._headers(), catch_response=True, **more
        ) as answer:
            if answer.status_code >= 400:
                answer.failure(f"{answer.status_code} {answer.text[:200]}")
                return None
            answer.success()
            return answer.json()

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Our options beside locust's."""
    group = parser.add_argument_group("lectern")
    group.add_argument("--course", default=None, help="what to buy (default: the newest one that costs something)")


@events.quitting.add_listener
def tell(environment: Environment, **_: Any) -> None:
    """Print how long purchases took and settle the exit status."""
    if not isinstance(environment.runner, LocalRunner | MasterRunner):
        return
    bought = environment.stats.get(PURCHASE, "POST")
    percentiles = "  ".join(f"p{n} {bought.get_response_time_percentile(n / 100):.0f}" for n in (50, 95, 99))
    print(f"\n{environment.host or DEFAULT_HOST}\n")
    print(f"purchases asked for  {bought.num_requests}  ({bought.total_rps:.1f}/s)")
    print(f"answered after, ms   {percentiles}")
    for error in environment.stats.errors.values():
        print(f"went wrong, {error.occurrences} times: {error.name}: {error.error}")
    environment.process_exit_code = 1 if environment.stats.total.num_failures or not bought.num_requests else 0
