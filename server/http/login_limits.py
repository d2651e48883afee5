"""How often a password may be tried.

Wrong ones are counted for the account from one address (`limits.login_account`), and for the account from all
addresses together (ten times that). An address from which the account was signed in to lately is neither counted nor
stopped by the latter, so that a stranger, from however many addresses, does not lock the owner out. Wrong ones from one
address, to whatever accounts, are counted too (`limits.login_address`); right ones are not, since a whole school may
sign in from one address. An account that does not exist is counted like one that does.
"""

import hashlib
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from aiohttp import web

from server.data.limits import Verdict
from server.http.keys import EDGE, LIMITER
from server.http.problems import RateLimited
from server.http.routing import VERDICT, Call

ACCOUNT, ADDRESS = "login_account", "login_address"
# How many times as many failures an account may have from all addresses as from one.
EVERYWHERE = 10.0
# A class of limits, whom it counts, and how many times as large it is.
Place: TypeAlias = tuple[str, str, float]


class Wrong(Exception):
    """The password was wrong; `guarded` counts it and raises it on."""


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
    """
    limiter = call.app[LIMITER]
    network = call.app[EDGE].client_network(call.request)
    counted: list[Place] = []
    places: list[Place] = [(ADDRESS, network, 1.0), (ACCOUNT, f"{account}@{network}", 1.0)]
    if not known_here:
        places.append((ACCOUNT, account, EVERYWHERE))
    try:
        for place in places:
            name, who, times = place
            _hold(call.request, await limiter.take(name, who, times=times, closed=closed))
            counted.append(place)
        yield
    except Wrong:
        raise
    except BaseException:
        await _undo(call, counted)
        raise
    await _undo(call, counted)


def account_of(user_id: Any, login: str = "") -> str:
    """What an account's failures are counted under; for one that does not exist, by what was typed."""
    if user_id is not None:
        return str(user_id)
    typed = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", login).casefold())
    return hashlib.sha256(typed.encode()).hexdigest()


async def _undo(call: Call[Any], counted: list[Place]) -> None:
    for name, who, times in counted:
        await call.app[LIMITER].give_back(name, who, times=times)


def _hold(request: web.Request, verdict: Verdict | None) -> None:
    if verdict is not None and not verdict.allowed:
        request[VERDICT] = verdict  # what one is told of is the limit that one has met
        raise RateLimited(
            "Too many tries to sign in: wait, or reset the password.",
            headers={"Retry-After": str(verdict.retry_after_s)},
        )
