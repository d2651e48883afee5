"""Watches what a session's server says to one player and notes every broken promise of the wire.

The witness does no I/O: it is told what was sent and what was received, in order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from typing import Any

NEVER_BACK = ("last_seq", "frames", "segments", "bytes", "watched_seconds", "stalls", "stall_ms", "switches", "gaps")


class Witness:
    """One player's view of one session. `violations` stays empty as long as every promise is kept.

    `had_before`: frames up to this `seq` were sent by somebody else before. `in_order`: this player alone sends, each
    frame in its turn, so that `gaps` can only be what it left out on purpose. `forgive_redis()` after Redis lost data:
    from then on `hello.seq` may fall, though never below what was saved.
    """

    def __init__(self, *, had_before: int = 0, in_order: bool = True) -> None:
        self.violations: list[str] = []
        self.had_before = had_before
        self.in_order = in_order
        self._sent: list[int] = []  # sorted, each once
        self.acked = 0  # the highest ever acknowledged, by hello, ack or a route's answer
        self.saved = 0
        self.epoch = 0
        self.decisions_skipped = 0
        self._lost_redis = False
        self._greeted = False
        self._ack: Mapping[str, Any] | None = None  # the last of this epoch
        self._decision_n = 0
        self._answer: Mapping[str, Any] = {}

    # ------------------------------------------------------------------ what is told
    def opened(self) -> None:
        """A socket was opened; its `hello` is due."""
        self._greeted, self._ack, self._decision_n = False, None, 0

    def sent(self, seq: int) -> None:
        """A frame is about to leave."""
        at = bisect_left(self._sent, seq)
        if at == len(self._sent) or self._sent[at] != seq:
            self._sent.insert(at, seq)

    def forgive_redis(self) -> None:
        """Redis lost its data: acknowledged frames that are not saved may be asked for again, once."""
        self._lost_redis = True

    def received(self, message: Mapping[str, Any]) -> None:
        """A message arrived on the open socket."""
        kind = message.get("type")
        if kind == "hello":
            self._hello(message)
        elif not self._greeted and kind not in ("error", "bye"):
            self._broken(f"{kind} came before hello")
        elif kind == "ack":
            self._acknowledged(message)
        elif kind == "decision":
            self._decided(message)

    def answered(self, session: Mapping[str, Any]) -> None:
        """`GET /api/videos/sessions/{id}` answered: every process from Postgres, so nothing ever goes back."""
        if session["last_seq"] != session["saved_seq"]:
            self._broken(f"the answer's last_seq {session['last_seq']} is not its saved_seq {session['saved_seq']}")
        if session["last_seq"] < self.saved:
            self._broken(f"the answer's last_seq {session['last_seq']} is below {self.saved}, which was saved")
        self._check_sent("the answer's last_seq", session["last_seq"])
        for name in NEVER_BACK:
            before = self._answer.get(name)
            if before is not None and session[name] < before:
                self._broken(f"the answer's {name} fell from {before} to {session[name]}")
        self._answer = dict(session)
        self.saved = max(self.saved, session["saved_seq"])

    # ------------------------------------------------------------------ the promises
    def _hello(self, hello: Mapping[str, Any]) -> None:
        if self._greeted:
            self._broken("a second hello on one socket")
        self._greeted = True
        seq, saved, epoch = hello["seq"], hello["saved"], hello["epoch"]
        if epoch <= self.epoch:
            self._broken(f"hello.epoch {epoch} does not rise above {self.epoch}")
        self.epoch = max(self.epoch, epoch)
        if seq < self.acked and not self._lost_redis:
            self._broken(f"hello.seq {seq} is below {self.acked}, which was acknowledged")
        if seq < self.saved:
            self._broken(f"hello.seq {seq} is below {self.saved}, which was saved")
        if saved < self.saved:
            self._broken(f"hello.saved {saved} is below {self.saved}, which was saved")
        if self._lost_redis:
            self.acked, self._lost_redis = min(self.acked, seq), False
        self._check_settled("hello", seq, saved)
        decision = hello.get("decision")
        if decision is None:
            self._broken("hello has no decision")
        else:
            self._decided(decision)
            if decision["n"] != 1:
                self._broken(f"the first decision of epoch {epoch} has n {decision['n']}")

    def _acknowledged(self, ack: Mapping[str, Any]) -> None:
        seq, saved, gaps = ack["seq"], ack["saved"], ack["gaps"]
        if self._ack is not None:
            for name in ("seq", "saved", "gaps"):
                if ack[name] < self._ack[name]:
                    self._broken(f"ack.{name} fell from {self._ack[name]} to {ack[name]} within an epoch")
        elif seq < self.acked or saved < self.saved:
            self._broken(f"ack (seq {seq}, saved {saved}) is below the hello before it ({self.acked}, {self.saved})")
        self._ack = ack
        self._check_settled("ack", seq, saved)
        holes = self._left_out(seq)
        if self.in_order and not self.had_before and gaps != holes:
            self._broken(f"ack.gaps is {gaps} at seq {seq}, where {holes} frames were left out")

    def _decided(self, decision: Mapping[str, Any]) -> None:
        n = decision["n"]
        if n <= self._decision_n:
            self._broken(f"decision.n {n} does not rise above {self._decision_n}")
        # The latest wins: a slow reader may miss some, so a jump is counted, not condemned.
        self.decisions_skipped += max(0, n - self._decision_n - 1)
        self._decision_n = n
        if decision.get("epoch", self.epoch) != self.epoch:
            self._broken(f"decision of epoch {decision['epoch']} within epoch {self.epoch}")

    def _check_settled(self, where: str, seq: int, saved: int) -> None:
        if saved > seq:
            self._broken(f"{where}.saved {saved} is above {where}.seq {seq}")
        self._check_sent(f"{where}.seq", seq)
        self._check_sent(f"{where}.saved", saved)
        self.acked = max(self.acked, seq)
        self.saved = max(self.saved, saved)

    def _check_sent(self, what: str, seq: int) -> None:
        at = bisect_left(self._sent, seq)
        if seq > self.had_before and (at == len(self._sent) or self._sent[at] != seq):
            self._broken(f"{what} {seq} was never sent")

    def _left_out(self, up_to: int) -> int:
        return up_to - bisect_right(self._sent, up_to)

    def _broken(self, what: str) -> None:
        self.violations.append(what)


def all_violations(witnesses: Iterable[Witness]) -> list[str]:
    """Every broken promise that any of `witnesses` saw."""
    return [violation for witness in witnesses for violation in witness.violations]
