"""On a full link that many share, those who get much leave an even part to those who run out of buffer."""

from math import inf
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from actors.sharing import FEWEST, Link, Sharing
from actors.video_session import quality
from actors.video_session.actor import VideoSession, decide_all
from actors.video_session.messages import Cmcd, Rung, Segment, Telemetry
from actors.video_session.state import SessionState, dump_state
from loadtests.watching import PAPERS_KBPS
from server.data.neighbours import SAID_S, Neighbours, Part
from tests.support.core import Listener
from tests.support.lectures import LADDER

SEGMENT_S = 4.0


def session(network: str = "school") -> VideoSession:
    """A session on a network, held since second 0."""
    state = SessionState(quality=quality.QualityState(network=network))
    row = {
        "id": uuid4(), "video_id": uuid4(), "user_id": uuid4(), "lecture_id": uuid4(), "epoch": 1,
        "state": dump_state(state), "last_seq": 0, "last_sub": 0, "duplicates": 0, "ladder": LADDER,
        "viewport": None, "save_data": False, "resume_ms": 0, "length_ms": None, "decisions": None,
        "claimed_by": "socket",
    }  # fmt: skip
    return VideoSession(row, now=0.0)


def watch(one: VideoSession, kbps: float, *, buffer_s: float, segments: int = 1) -> None:
    """The session reports segments of its second rung at this rate, and what it has buffered then."""
    br = one.ladder[1].br
    fetched = [Segment(br=br, bytes=br * 500, ms=br * 4000 / kbps)] * segments
    frame = Telemetry(position=1.0, seq=one.highest + 1, segments=fetched, cmcd=Cmcd(buffer_length_ms=buffer_s * 1000))
    assert one.accept(frame)
    one.take_written(1)
    decide_all([one], 10_000)


async def test_who_gets_much_leaves_some_to_those_who_run_dry_in_whatever_process(redis: Redis) -> None:
    here, there = (Sharing(uuid4(), Neighbours(redis)) for _ in range(2))
    rich, poor = [session() for _ in range(3)], [session() for _ in range(2)]
    elsewhere = [session("another network") for _ in range(6)]

    async def five_seconds() -> None:
        for one in rich + elsewhere:
            watch(one, 9000, buffer_s=20, segments=3)
        for one in poor:
            watch(one, 500, buffer_s=3)
        await here.beat([*rich, *elsewhere])
        await there.beat(poor)

    for one in rich + poor + elsewhere:
        watch(one, 9000 if one not in poor else 500, buffer_s=12, segments=6)
    before = rich[0].state.quality.rung
    await here.beat([*rich, *elsewhere])
    await there.beat(poor)
    await five_seconds()
    await five_seconds()
    rich[0].peer = listener = Listener()
    watch(rich[0], 9000, buffer_s=20)
    advice = rich[0].advice
    assert advice is not None
    assert before is not None
    assert advice.rung < before
    assert (advice.reason, advice.cmsd.du) == (quality.SHARED, True)
    rich[0].answer(0.0)
    assert listener.decisions[-1].cmsd.du is True
    assert elsewhere[0].question.fair_kbps == inf

    for _ in range(12):
        for one in rich + poor:
            watch(one, 2000, buffer_s=20, segments=2)
        await there.beat(poor)
        await here.beat(rich)
    watch(rich[0], 9000, buffer_s=20)
    assert rich[0].question.fair_kbps == inf
    assert rich[0].advice is not None
    assert (rich[0].advice.rung, rich[0].advice.cmsd.du is True) == (before, False)


async def test_what_a_process_that_is_gone_said_is_forgotten(redis: Redis) -> None:
    neighbours = Neighbours(redis)
    assert await neighbours.share("a", {"school": Part(3, 1, 900.0)}) == {"school": Part(3, 1, 900.0)}
    assert await neighbours.share("b", {"school": Part(2, 2, 100.0)}) == {"school": Part(5, 3, 1000.0)}
    old = int((await redis.time())[0]) - SAID_S - 1
    await redis.hset("sharing:school", "a", f"{old} 3 1 900")
    assert await neighbours.share("b", {"school": Part(2, 0, 100.0)}) == {"school": Part(2, 0, 100.0)}
    assert 0 < await redis.ttl("sharing:school") <= 4 * SAID_S


def test_few_sessions_or_few_in_need_share_as_they_like() -> None:
    link = Link()
    assert link.hear(Part(FEWEST - 1, FEWEST - 1, 1000.0)) == inf
    assert link.hear(Part(12, 2, 8000.0)) == inf
    assert link.hear(Part(12, 3, 8000.0)) < 8000 / 12 + 1


class Learner:
    """A player on a link, as a fluid: what it is decided to fetch, what comes of it, what it has buffered."""

    def __init__(self, weight: float, begins_s: float) -> None:
        self.weight, self.begins_s = weight, begins_s
        self.state = quality.QualityState()
        self.question = quality.Question(self.state, [Rung(i, kbps) for i, kbps in enumerate(PAPERS_KBPS)])
        self.left_kbit = self.buffer_s = self.stall_s = self.got_kbit = 0.0
        self.asked_s, self.br, self.playing = begins_s, 0.0, False

    def fetches(self, now_s: float) -> bool:
        if now_s < self.begins_s or (not self.left_kbit and self.buffer_s > 26):
            return False
        if not self.left_kbit:
            self.br, self.asked_s = PAPERS_KBPS[quality.decide(self.question).rung], now_s
            self.left_kbit = self.br * SEGMENT_S
        return True

    def get(self, kbit: float, now_s: float) -> None:
        self.got_kbit += min(kbit, self.left_kbit)
        self.left_kbit = max(self.left_kbit - kbit, 0.0)
        if self.left_kbit:
            return
        self.buffer_s, self.playing = self.buffer_s + SEGMENT_S, True
        segment = Segment(br=self.br, bytes=self.br * 500, ms=max(now_s - self.asked_s, 0.1) * 1000)
        cmcd = Cmcd(buffer_length_ms=self.buffer_s * 1000)
        quality.observe(self.state, Telemetry(position=0.0, cmcd=cmcd, segments=[segment]))

    def play(self, seconds: float) -> None:
        if self.playing and self.buffer_s < seconds:
            self.stall_s += seconds
        self.buffer_s = max(self.buffer_s - seconds, 0.0) if self.playing else 0.0


@pytest.mark.parametrize(("weight", "even"), [(4.0, False), (1.0, True)])
def test_stalls_on_an_uneven_link_are_cut_and_an_even_one_is_left_alone(weight: float, even: bool) -> None:
    def stalls_s(sharing: bool) -> float:
        learners = [Learner(weight if number % 2 else 1.0, 3.0 * number) for number in range(10)]
        link, got, step_s = Link(), 0.0, 0.2
        for tick in range(1, 1000):
            now_s = tick * step_s
            active = [learner for learner in learners if learner.fetches(now_s)]
            weights = sum(learner.weight for learner in active)
            for learner in active:
                learner.get(450 * len(learners) * step_s * learner.weight / weights, now_s)
            for learner in learners:
                learner.play(step_s)
            if sharing and tick % 25 == 0:
                begun = [learner for learner in learners if learner.begins_s < now_s]
                short = sum(one.state.samples >= 5 and one.buffer_s < 8 for one in begun)
                before, got = got, sum(learner.got_kbit for learner in learners)
                fair_kbps = link.hear(Part(len(begun), short, (got - before) / 5))
                for learner in begun:
                    learner.question.share(fair_kbps)
        return sum(learner.stall_s for learner in learners)

    alone, shared = stalls_s(False), stalls_s(True)
    assert shared <= alone if even else shared < 0.5 * alone
