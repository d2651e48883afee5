"""Stripe's search: `metadata['key']:'value' AND status:'succeeded'`, over what it has indexed by now."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from standins.stripe.operations import Call
from standins.stripe.wire import ApiError, Json, Parameters

_TERM = re.compile(
    r"""\s*(?P<minus>-)?(?:(?P<name>[a-z_]+)|metadata\[(?P<q>["'])(?P<key>.+?)(?P=q)\])"""
    r"""\s*(?P<sign>:|~|>=|<=|>|<)\s*(?:(?P<v>["'])(?P<text>.*?)(?P=v)|(?P<number>\d+))\s*"""
)
_JOIN = re.compile(r"\s*(AND|OR|and|or)\s+|\s+")


class Search(Parameters):
    query: str = Field(max_length=1000)
    limit: int = Field(default=10, ge=1, le=100)
    page: str | None = None


def search(call: Call[Search], kind: str) -> Json:
    """A search result, the newest first. Raises ApiError for a query that cannot be read."""
    given = call.given
    terms, any_of = _parse(given.query)
    until = call.settings.wall() + call.store.clock.ahead_s - call.settings.search_lag_s
    found = [
        item
        for item in call.store.find(kind)
        if item["created"] <= until and (any if any_of else all)(_matches(item, term) for term in terms)
    ]
    start = int(given.page) if given.page is not None and given.page.isdecimal() else 0
    shown = found[start : start + given.limit]
    more = start + given.limit < len(found)
    return {
        "object": "search_result",
        "url": call.path,
        "has_more": more,
        "next_page": str(start + given.limit) if more else None,
        "data": shown,
    }


def _parse(query: str) -> tuple[list[re.Match[str]], bool]:
    terms: list[re.Match[str]] = []
    joins: set[str] = set()
    at = 0
    while at < len(query):
        if terms:
            join = _JOIN.match(query, at)
            if join is not None:
                joins.add((join[1] or "AND").upper())
                at = join.end()
        term = _TERM.match(query, at)
        if term is None:
            raise ApiError(f"We were unable to parse your search query: {query}", param="query", before_acting=True)
        terms.append(term)
        at = term.end()
    if not terms or len(joins) > 1:
        raise ApiError(
            "A query has at least one term, and either AND or OR between its terms.", param="query", before_acting=True
        )
    return terms, joins == {"OR"}


def _matches(item: Json, term: re.Match[str]) -> bool:
    value: Any = item.get(term["name"]) if term["name"] else item["metadata"].get(term["key"])
    wanted = term["text"] if term["number"] is None else term["number"]
    if value is None:
        answer = False
    elif term["sign"] == ":":
        answer = str(value).lower() == wanted.lower()
    elif term["sign"] == "~":
        answer = wanted.lower() in str(value).lower()
    else:
        answer = _compare(float(value), term["sign"], float(wanted))
    return answer != bool(term["minus"])


def _compare(value: float, sign: str, wanted: float) -> bool:
    return {">": value > wanted, ">=": value >= wanted, "<": value < wanted, "<=": value <= wanted}[sign]
