"""WebVTT is told from what is not, and languages are known in any case."""

import pytest

from server.domain.captions import NotCaptions, canonical_language, check_captions


@pytest.mark.parametrize(
    "vtt", [b"WEBVTT", b"WEBVTT\n\n", b"WEBVTT - title\r\n", b"\xef\xbb\xbfWEBVTT\t\n", "WEBVTT\nж".encode()]
)
def test_webvtt_is_taken_as_it_is(vtt: bytes) -> None:
    assert check_captions(vtt) == vtt


@pytest.mark.parametrize(
    "vtt", [b"", b"WEBVTTX", b"webvtt", b" WEBVTT", b"1\n00:00:01,000", b"WEBVTT\n\xff", b"WEBVTT\n\0"]
)
def test_what_is_no_webvtt_is_refused(vtt: bytes) -> None:
    with pytest.raises(NotCaptions):
        check_captions(vtt)


@pytest.mark.parametrize("tag", ["en", "deu", "pt-BR", "zh-Hant", "zh-Hant-TW", "es-419", "de-CH-1996", "sl-rozaj"])
def test_a_language_is_the_same_in_any_case(tag: str) -> None:
    assert {canonical_language(written) for written in (tag, tag.upper(), tag.lower(), tag.swapcase())} == {tag}
