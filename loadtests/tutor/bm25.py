"""What the tutor's search is compared with: Okapi's BM25 (k1 1.2, b 0.75) over windows of six sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadtests.tutor.material import Lecture

SENTENCES = 6
_K1, _B = 1.2, 0.75


@dataclass(frozen=True)
class Window:
    """Six sentences of a lecture, the last one of it maybe fewer."""

    lecture: Lecture
    from_s: float
    to_s: float
    text: str


class Windows:
    """Some windows; `stems` has the stems of each text and how often they stand there."""

    def __init__(self, windows: Sequence[Window], stems: Mapping[str, Counter[str]]) -> None:
        self._windows = windows
        self._counts = [stems.get(window.text, Counter()) for window in windows]
        self._lengths = [sum(counts.values()) for counts in self._counts]
        self._mean = sum(self._lengths) / len(self._lengths)
        self._holders = Counter(stem for counts in self._counts for stem in counts)

    @staticmethod
    def of(lecture: Lecture) -> list[Window]:
        """A lecture's, one after the other."""
        windows = []
        for start in range(0, len(lecture.cues), SENTENCES):
            cues = lecture.cues[start : start + SENTENCES]
            windows.append(Window(lecture, cues[0].from_s, cues[-1].to_s, " ".join(cue.text for cue in cues)))
        return windows

    def ranked(self, wanted: Counter[str]) -> list[Window]:
        """Best first; those without any of the words last, in their order."""
        order = sorted(range(len(self._windows)), key=lambda n: -self._score(n, wanted))
        return [self._windows[n] for n in order]

    def _score(self, n: int, wanted: Counter[str]) -> float:
        length = _K1 * (1 - _B + _B * self._lengths[n] / self._mean)
        counts = self._counts[n]
        return sum(self._idf(stem) * counts[stem] * (_K1 + 1) / (counts[stem] + length) for stem in wanted)

    def _idf(self, stem: str) -> float:
        holders = self._holders[stem]
        return math.log(1 + (len(self._windows) - holders + 0.5) / (holders + 0.5))
