"""How often a password may be tried.

Wrong ones are counted for the account from one address (`limits.login_account`), and for the account from all
addresses together (ten times that). An address from which the account was signed in to lately is neither counted nor
stopped by the latter, so that a stranger, from however many addresses, does not lock the owner out. Wrong ones from one
address, to whatever accounts, are counted too (`limits.login_address`); right ones are not, since a whole school may
sign in from one address. An account that does not exist is counted like one that does.

Whether a password is right is known when it was looked at, and until then it is counted as a wrong one. Who finds too
many counted waits for those that this process looks at, so as not to be refused for what turns out right.
"""

import asyncio
import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeAlias

from aiohttp import web

from server.data.limits import Try, Verdict
from server.http.keys import EDGE, LIMITER, TRIES
from server.http.problems import Overloaded, RateLimited
from server.http.routing import VERDICT, Call

ACCOUNT, ADDRESS = "login_account", "login_address"
# How many times as many failures an account may have from all addresses as from one.
EVERYWHERE = 10.0
# A class of limits, whom it counts, and how many times as large it is.
Place: TypeAlias = tuple[str, str, float]


class Wrong(Exception):
    """The password was wrong; `guarded` counts it and raises it on."""


class Tries:
    """Of this process, those that are counted and not known to be right or wrong yet, by place. Each is a future that
    is done when it is known, and taken back if it was right. `wait_s`: how long another waits for one of them."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        self._under_way: defaultdict[Place, set[asyncio.Future[None]]] = defaultdict(set)

    def at(self, place: Place) -> set[asyncio.Future[None]]:
        """Those that are counted there now."""
        return set(self._under_way.get(place, ()))

    def add(self, place: Place, one: asyncio.Future[None]) -> None:
        """It is counted there."""
        self._under_way[place].add(one)

    def settle(self, places: list[Place], one: asyncio.Future[None]) -> None:
        """It is known, and all that wait for it go on."""
        for place in places:
            self._under_way[place].discard(one)
            if not self._under_way[place]:
                del self._under_way[place]
        one.set_result(None)


@asynccontextmanager
async def guarded(call: Call[Any], account: str, *, known_here: bool, closed: bool) -> AsyncIterator[None]:
    """Around checking a password: counts a try beforehand, so that many at once are no more than the limit, and takes
    it back unless the block raises `Wrong`.

    Args:
        account: `account_of(...)`.
        known_here: whether the account was signed in to from this address lately.
        closed: whether nothing is allowed while Redis is away; else this process counts alone.

    Raises:
        RateLimited: there were too many; the password is not looked at.
        Overloaded: too many are looked at, and it is not known in time whether they are wrong.
    """
    network = call.app[EDGE].client_network(call.request)
    counted: list[tuple[Place, Try]] = []
    places: list[Place] = [(ADDRESS, network, 1.0), (ACCOUNT, f"{account}@{network}", 1.0)]
    if not known_here:
        places.append((ACCOUNT, account, EVERYWHERE))
    loop, tries = asyncio.get_running_loop(), call.app[TRIES]
    this: asyncio.Future[None] = loop.create_future()
    give_up_at = loop.time() + tries.wait_s
    try:
        for place in places:
            counted.append((place, Try()))  # also one of which it is not known
            await _count(call, *counted[-1], give_up_at, closed=closed)
            tries.add(place, this)
        yield
    except Wrong:
        raise
    except BaseException:
        await _undo(call, counted)
        raise
    else:
        await _undo(call, counted)
    finally:
        tries.settle([place for place, _ in counted], this)


def account_of(user_id: Any, login: str = "") -> str:
    """What an account's failures are counted under; for one that does not exist, by what was typed."""
    if user_id is not None:
        return str(user_id)
    typed = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", login).casefold())
    return hashlib.sha256(typed.encode()).hexdigest()


async def _count(call: Call[Any], place: Place, tried: Try, give_up_at: float, *, closed: bool) -> None:
    """Count a try; where there are too many, when one of those under way is known. Raises RateLimited, Overloaded."""
    name, who, times = place
    loop, tries = asyncio.get_running_loop(), call.app[TRIES]
    while True:
        others = tries.at(place)  # one of these may be known before we are answered
        verdict = await call.app[LIMITER].take(name, who, times=times, closed=closed, tried=tried)
        if verdict is None or verdict.allowed:
            return
        others |= tries.at(place)
        if not others:
            _refuse(call.request, verdict)
        known, _ = await asyncio.wait(others, timeout=give_up_at - loop.time(), return_when=asyncio.FIRST_COMPLETED)
        if not known:
            raise Overloaded("Too many passwords wait to be looked at.")


async def _undo(call: Call[Any], counted: list[tuple[Place, Try]]) -> None:
    limiter = call.app[LIMITER]
    await asyncio.gather(*(limiter.give_back(name, who, tried, times=times) for (name, who, times), tried in counted))


def _refuse(request: web.Request, verdict: Verdict) -> NoReturn:
    request[VERDICT] = verdict  # what one is told of is the limit that one has met
    raise RateLimited(
        "Too many tries to sign in: wait, or reset the password.",
        headers={"Retry-After": str(verdict.retry_after_s)},
    )
