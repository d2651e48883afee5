"""Words, as far as answers and embeddings need them: folded, stemmed a little, with what they mean left out."""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_SENTENCE = re.compile(r"(?<=[.!?…।॥؟۔。！？])\s+|\n+")
_ENDINGS = ("ations", "ation", "ingly", "edly", "ings", "ing", "ies", "ied", "ers", "er", "ed", "es", "ly", "s")
# Words that say nothing of what a text is about.
_COMMON = """
    a about again all also am an and any are as at be because been before being both but by can could did do does
    doing done down each else even ever every explain few for from get give go good had has have he her here him his how
    i if in into is it its just know last lecture let like make many may me mean means might mine more most much must my
    no not now of off on once one only or other our out over own please point said same say says see shall she should so
    some such talk tell than that the their them then there these they thing things this those through to too under
    understand up us use very video was way we well were what when where which while who why will with would you your
"""
COMMON = frozenset(_COMMON.split())


def words_of(text: str) -> list[str]:
    """The stems of all words of a text, in order."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    return [stem(word) for word in _WORD.findall("".join(c for c in folded if not unicodedata.combining(c)))]


def telling(text: str) -> list[str]:
    """As `words_of`, of those words that tell what the text is about."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(c for c in folded if not unicodedata.combining(c))
    return [stem(word) for word in _WORD.findall(plain) if word.replace("’", "'") not in COMMON]


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """Without its usual English endings; "caches", "caching" and "cache" are one."""
    word = word.replace("’", "'").removesuffix("'s")
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= min(3, 1 + len(ending)):
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > 3 and word[-1] in "ey" else word


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, without what surrounds them."""
    return [part for found in _SENTENCE.split(html.unescape(text)) if (part := found.strip())]
