"""What happens by itself: refunds settle, and whatever else was put off until a time of the service's own clock."""

from __future__ import annotations

from collections.abc import Callable

from standins.stripe import subscriptions
from standins.stripe.charges import settle_refund
from standins.stripe.operations import AnyCall, Call
from standins.stripe.store import Settings, Store
from standins.stripe.wire import Json, Parameters

WORK: dict[str, tuple[str, Callable[[AnyCall, Json], None]]] = {
    "settle_refund": ("refund", settle_refund),
    "renew": ("subscription", subscriptions.renew),
    "expire": ("subscription", subscriptions.expire),
    "collect": ("invoice", subscriptions.collect),
}
"""By the task's name: the kind of object it is about, and what is done."""


def run_due(store: Store, settings: Settings) -> bool:
    """Do all that is due by now, each at its own time; whether there was anything."""
    return _run_until(store, settings, store.clock.now())


def advance(store: Store, settings: Settings, seconds: float) -> None:
    """Move the clock on; what falls due on the way happens in its order and at its time."""
    _run_until(store, settings, int(store.clock.now() + seconds))
    store.clock.ahead_s += seconds
    with store.transaction():
        store.set_setting("ahead_s", store.clock.ahead_s)


def _run_until(store: Store, settings: Settings, until: int) -> bool:
    did = False
    while True:
        with store.transaction():
            task = store.take_task(until)
            if task is None:
                return did
            did = True
            due, name, object_id = task
            kind, work = WORK[name]
            about = store.get(object_id)
            if about is not None and about["object"] == kind:
                with store.clock.at(due):
                    work(Call(store, settings, Parameters()), about)
