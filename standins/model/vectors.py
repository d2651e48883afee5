"""Embeddings by hashing: texts that share words, pairs of words and pieces of words lie close to one another.

Feature hashing (Weinberger et al., 2009) with signs. It knows no synonyms; it is offline, small, and always the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise

from standins.model.words import telling, words_of

DIMENSIONS = 512
_PIECE = 4


def embed(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A vector of length 1 (of zeros for a text without words)."""
    vector = [0.0] * dimensions
    for feature, weight in _features(text).items():
        digest = int.from_bytes(blake2b(feature.encode(), digest_size=8).digest(), "big")
        vector[(digest >> 1) % dimensions] += weight if digest & 1 else -weight
    length = math.sqrt(sum(number * number for number in vector))
    return [number / length for number in vector] if length else vector


def _features(text: str) -> dict[str, float]:
    words = telling(text) or words_of(text)
    counts = Counter(f"word {word}" for word in words)
    counts.update(f"pair {first} {second}" for first, second in pairwise(words))
    pieces = Counter(f"piece {piece}" for word in words for piece in _pieces(word))
    return {name: 1 + math.log(count) for name, count in counts.items()} | {
        name: 0.4 * (1 + math.log(count)) for name, count in pieces.items()
    }


def _pieces(word: str) -> Iterator[str]:
    padded = f"^{word}$"
    for start in range(max(1, len(padded) - _PIECE + 1)):
        yield padded[start : start + _PIECE]
