"""Captions: WebVTT, as far as we look into it, and how its languages are called."""

# Of what stands after the language: a region, and a script or a year.
_FORMS = {2: str.upper, 4: str.capitalize}


class NotCaptions(ValueError):
    """The bytes are not WebVTT; str() says why."""


def check_captions(vtt: bytes) -> bytes:
    """The bytes, if they are UTF-8 text that starts as WebVTT must (W3C WebVTT, section 4.1). Raises NotCaptions."""
    try:
        text = vtt.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise NotCaptions("must be UTF-8") from None
    if "\0" in text:
        raise NotCaptions("must not hold U+0000")
    if not text.startswith("WEBVTT") or text[6:7] not in ("", " ", "\t", "\n", "\r"):
        raise NotCaptions("must start with WEBVTT")
    return vtt


def canonical_language(tag: str) -> str:
    """A language tag as it is written by convention, such as `pt-BR`: it is the same in any case (RFC 5646, 2.1.1)."""
    language, *others = tag.lower().split("-")
    return "-".join([language, *(_FORMS.get(len(other), str)(other) for other in others)])
