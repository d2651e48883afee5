"""The server with one promise taken out, to show that the rig would notice.

A mutant is a few replacements in a copy of the tree. What it replaces must be there exactly once, so that a mutant
whose place in the code has moved fails loudly instead of proving nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.server_process import ROOT

# What a server process needs of the tree, and the rig's own ways of starting one.
COPIED = ("server", "actors", "handlers", "sql", "web", "tests", "config.toml")


class MutantLost(AssertionError):
    """What a mutant replaces is not in the code, or more than once."""


@dataclass(frozen=True)
class Replacement:
    """In the file `path`, instead of `old`."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """What is taken out, the scenario that must notice, and what it then says (a regular expression)."""

    name: str
    scenario: str
    notices: str
    replacements: Sequence[Replacement]


MUTANTS = {
    mutant.name: mutant
    for mutant in (
        Mutant(
            "starts at the stream's tail",
            "kill-one",
            r"hello.seq \d+ is below \d+, which was acknowledged",
            [
                Replacement(
                    "actors/recovery.py", "session.key, session.state.cursor, PAGE", "session.key, (2**62, 0), PAGE"
                )
            ],
        ),
        Mutant(
            "no fence",
            "stopped-owner",
            r"wrote .* under epoch \d+, which \w+ claimed",
            [Replacement("sql/queries/sessions.sql", "s.id = g.id AND s.epoch = g.epoch AND", "s.id = g.id AND")],
        ),
        Mutant(
            "XADD *",
            "kill-one",
            r"hello.seq \d+ is below \d+, which was acknowledged",
            [
                Replacement("server/data/hot.py", "KEYS[1], ARGV[i] .. '-0'", "KEYS[1], '*'"),
                Replacement("server/data/streams.py", "KEYS[1], ARGV[i + 1] .. '-0'", "KEYS[1], '*'"),
            ],
        ),
        Mutant(
            "acknowledges before XADD",
            "redis-paused",
            r"was acknowledged while Redis was away",
            [
                Replacement(
                    "actors/runtime.py",
                    "if session.accept(frame, blob):",
                    "if session.accept(frame, blob):\n"
                    "            ack = {'type': 'ack', 'seq': frame.seq, 'saved': session.saved[0], 'gaps': 0}\n"
                    "            session.peer.send_ack(msgspec.json.encode(ack))",
                )
            ],
        ),
        Mutant(
            "trims before the commit",
            "postgres-away-killed",
            r"hello.seq \d+ is below \d+, which was acknowledged",
            [
                Replacement(
                    "actors/checkpoints.py",
                    "saved = await self.write(checkpoints, seen)",
                    "await self._trim(checkpoints)\n            saved = await self.write(checkpoints, seen)",
                )
            ],
        ),
        Mutant(
            "believes a beacon that leaps over what Redis lost",
            "flushed-and-overtaken",
            r"frames lost",
            [
                Replacement(
                    "server/data/streams.py",
                    "if seq > top_seq then prev = string.format('%.0f', seq - 1) end",
                    "",
                )
            ],
        ),
        Mutant(
            "folds from deltas kept in memory",
            "commit-cut",
            r"frames counted twice",
            [
                Replacement(
                    "actors/video_session/actor.py",
                    "state=dump_state(state),",
                    "state=msgspec.json.encode("
                    "__import__('dataclasses').replace(state, frames=state.frames - self.saved_frames)),",
                ),
                Replacement(
                    "sql/queries/sessions.sql",
                    "SET state = g.state,",
                    "SET state = jsonb_set(g.state::jsonb, '{frames}', to_jsonb("
                    "coalesce((s.state::json->>'frames')::bigint, 0) + (g.state::json->>'frames')::bigint))::text,",
                ),
            ],
        ),
    )
}


def make(mutant: Mutant, directory: Path, root: Path = ROOT) -> Path:
    """A tree under `directory` whose server is this mutant. Raises MutantLost."""
    tree = directory / "tree"
    tree.mkdir()
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        else:
            shutil.copy(source, tree / name)
    for replacement in mutant.replacements:
        path = tree / replacement.path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if (count := text.count(replacement.old)) != 1:
            raise MutantLost(f"{mutant.name}: {replacement.old!r} is {count} times in {replacement.path}, not once")
        path.write_text(text.replace(replacement.old, replacement.new), encoding="utf-8")
    return tree
