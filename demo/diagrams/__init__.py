"""The diagrams of the lectures. Each has a still part per beat (a sentence) and a moving part per frame."""

from typing import Final

from demo.diagrams.diagram import Diagram
from demo.diagrams.sessions import Apply, Batch, Checkpoint, Claim, Jitter, Replay, Stream, TwoStep, Wipe
from demo.diagrams.watching import Buffer, Cap, Ladder, Playback, Trace
from demo.diagrams.words import Points, Statement, Title

KINDS: Final[dict[str, type[Diagram]]] = {
    kind.__name__: kind
    for kind in (
        Title, Stream, Apply, Checkpoint, Replay, Points, Claim, Statement, TwoStep, Wipe, Buffer, Ladder, Cap, Jitter,
        Batch, Trace, Playback,
    )
}  # fmt: skip
