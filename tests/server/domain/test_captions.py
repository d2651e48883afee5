"""WebVTT is told from what is not."""

import pytest

from server.domain.captions import NotCaptions, check_captions


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
