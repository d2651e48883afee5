"""Learners who share a link: where it is full and shared unevenly, those who get much of it leave some to the others.

A session's own decisions share a link well with its equals: each takes what it measures. Where one gets several times
what another does (nearer to the access point, more connections), the others stall while it fills its buffer. From
outside one session that can be seen: on one network some run out of buffer, and all together get no more than the link
gives. Then nobody there is decided more than an even part of it until they have recovered, and players are told of the
duress (CTA-5006's `du`), so that they fetch nothing that can wait.

Every process says of its sessions what a network's sum needs, in Redis; nothing of it is kept for longer than a minute.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import inf
from uuid import UUID

from actors.video_session import quality
from actors.video_session.actor import VideoSession
from server.data.neighbours import Neighbours, Part

BEAT_S = 5.0
# So many sessions share a link, not a coincidence; when this share of them runs out of buffer it is full.
FEWEST, SHORT_SHARE = 4, 0.25
# An even part that was enough is made larger by this each time, and ends where it no longer means anything.
EASING, MEANINGLESS = 1.25, 3.0
# Of the newest sum: segments come in bursts.
NEWEST_WEIGHT = 0.5
# Sessions looked at before others have their turn.
SLICE = 500


class Link:
    """One network's link: what it gives (kbit/s), and the even part that holds now; `inf` while there is no need."""

    __slots__ = ("fair_kbps", "given_kbps")

    def __init__(self) -> None:
        self.given_kbps = 0.0
        self.fair_kbps = inf

    def hear(self, all_parts: Part) -> float:
        """What is known of the network now; the even part for each of its sessions."""
        weight = NEWEST_WEIGHT if self.given_kbps else 1.0
        self.given_kbps += weight * (all_parts.kbps - self.given_kbps)
        even_kbps = self.given_kbps / max(all_parts.sessions, 1)
        if all_parts.sessions < FEWEST:
            self.fair_kbps = inf
        elif all_parts.short >= SHORT_SHARE * all_parts.sessions:
            self.fair_kbps = max(even_kbps, 1.0)
        elif self.fair_kbps < MEANINGLESS * even_kbps:
            self.fair_kbps *= EASING
        else:
            self.fair_kbps = inf
        return self.fair_kbps


class Sharing:
    """What this process knows of the networks that several of its sessions are on."""

    def __init__(self, process_id: UUID, neighbours: Neighbours) -> None:
        self._process = str(process_id)
        self._neighbours = neighbours
        self._links: defaultdict[str, Link] = defaultdict(Link)
        # Of each session that shares a network: frames and bytes when it was looked at last.
        self._seen: dict[UUID, tuple[int, int]] = {}

    async def beat(self, sessions: Iterable[VideoSession], passed_s: float = BEAT_S) -> None:
        """Look at all sessions, `passed_s` after the last time; their questions know of it afterwards.

        Raises:
            RedisError: nothing is known of others now; what was decided stays until the next time.
        """
        groups = await _by_network(sessions)
        parts = self._count(groups, passed_s)
        totals = await self._neighbours.share(self._process, parts) if parts else {}
        for name in [name for name in self._links if name not in totals]:
            del self._links[name]
        for name, group in groups.items():
            fair_kbps = self._links[name].hear(totals[name]) if name in totals else inf
            for session in group:
                session.question.share(fair_kbps)

    def _count(self, groups: Mapping[str, list[VideoSession]], passed_s: float) -> dict[str, Part]:
        """This process's part of each network that it has more than one session on."""
        seen: dict[UUID, tuple[int, int]] = {}
        parts: dict[str, Part] = {}
        for name, group in groups.items():
            if len(group) < 2:
                continue
            count = short = got = 0
            for session in group:
                state = session.state
                seen[session.id] = state.frames, state.bytes
                frames, size = self._seen.get(session.id, (state.frames, state.bytes))
                if state.frames == frames:
                    continue  # silent: it takes nothing
                lacks = quality.lacks_buffer(session.question)
                if lacks or state.bytes > size:
                    count, short, got = count + 1, short + lacks, got + state.bytes - size
            parts[name] = Part(count, short, got * 8 / 1000 / passed_s)
        self._seen = seen
        return parts


async def _by_network(sessions: Iterable[VideoSession]) -> dict[str, list[VideoSession]]:
    groups: defaultdict[str, list[VideoSession]] = defaultdict(list)
    for number, session in enumerate(list(sessions)):
        if number % SLICE == SLICE - 1:
            await asyncio.sleep(0)
        if session.state.quality.network:
            groups[session.state.quality.network].append(session)
    return groups
