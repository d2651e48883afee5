"""What is said, from WebVTT."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.transcripts import MOST_CHARACTERS, PIECE_S, Piece, cut, read_cues

FILE = """WEBVTT - a file
Kind: captions

STYLE
::cue { color: red }

NOTE a remark --> that is none

1
00:01.000 --> 00:03.500 align:start
<v Ada>Queues &amp; <b>stacks</b>
are lists.

01:00:00.000 --> 01:00:02.000
Later.

00:05.000 --> 00:04.000
Backwards.

00:06.000 --> 00:99.000
Never.
00:07.000 --> 00:08.000
Next to it.
"""


def test_cues_are_read_with_their_seconds_and_without_tags() -> None:
    assert list(read_cues(FILE)) == [
        Piece(1.0, 3.5, "Queues & stacks are lists."),
        Piece(3600.0, 3602.0, "Later."),
        Piece(7.0, 8.0, "Next to it."),
    ]
    assert list(read_cues(FILE.replace("\n", "\r\n"))) == list(read_cues(FILE))


@pytest.mark.parametrize(
    "timing", ["0:00:01.000 --> 0:00:02.000", "00:01.000-->00:02.000", "00:01.000 -->\t00:02.000%"]
)
def test_times_are_read_as_players_read_them(timing: str) -> None:
    assert list(read_cues(f"WEBVTT\n\n{timing}\nHello.")) == [Piece(1.0, 2.0, "Hello.")]


def test_a_cue_that_is_longer_than_a_piece_is_kept_whole() -> None:
    words = " ".join(f"word{n}" for n in range(600))
    pieces = cut([Piece(0, 240, words), Piece(240, 241, "The end.")])
    assert " ".join(piece.text for piece in pieces) == f"{words} The end."
    assert len(pieces) == 4
    for piece, following in pairwise(pieces):
        assert piece.to_s == pytest.approx(following.from_s)
    assert all(abs(len(piece.text) / len(words) - (piece.to_s - piece.from_s) / 240) < 0.01 for piece in pieces)


@pytest.mark.parametrize("digits", [7, 400, 5000])
def test_a_cue_that_lies_past_all_time_is_passed_over(digits: int) -> None:
    never = f"{'9' * digits}:00:00.000"
    vtt = f"WEBVTT\n\n{never} --> {never}\nNever.\n\n00:00.000 --> {never}\nNever.\n\n00:01.000 --> 00:02.000\nHello."
    assert list(read_cues(vtt)) == [Piece(1.0, 2.0, "Hello.")]


def test_pieces_end_with_a_sentence_or_a_pause_and_rolling_captions_are_not_said_twice() -> None:
    sentences = [Piece(at, at + 4.0, f"Sentence {at:.0f}.") for at in (float(n) for n in range(0, 80, 4))]
    pieces = cut(sentences)
    assert [piece.from_s for piece in pieces] == [0.0, 28.0, 56.0]
    assert pieces[0].text.endswith("Sentence 24.")
    assert cut([Piece(0, 2, "Before"), Piece(20, 22, "the pause")]) == [
        Piece(0, 2, "Before"),
        Piece(20, 22, "the pause"),
    ]
    assert cut([Piece(0, 2, "It"), Piece(2, 4, "It rolls"), Piece(4, 6, "It rolls on")]) == [Piece(0, 6, "It rolls on")]


def test_a_word_that_begins_with_the_cue_before_is_whole() -> None:
    cues = [
        Piece(0, 1, "So"),
        Piece(1, 2, "Some say"),
        Piece(2, 3, "1"),
        Piece(3, 4, "10 do."),
        Piece(4, 5, "10 do. Or 9"),
    ]
    assert cut(cues) == [Piece(0, 5, "So Some say 1 10 do. Or 9")]
    assert cut([Piece(0, 1, "队列"), Piece(1, 2, "队列先进先出")]) == [Piece(0, 2, "队列 先进先出")]


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert list(read_cues(text)) == []


@given(
    st.lists(
        st.builds(
            lambda start, length, text: Piece(start, start + length, text),
            st.floats(0, 10_000),
            st.floats(0, 20),
            st.text(st.characters(categories=["L"]), min_size=1, max_size=300),
        ),
        max_size=60,
    )
)
def test_pieces_cover_their_cues_in_order_and_stay_short(cues: list[Piece]) -> None:
    pieces = cut(cues)
    assert [piece.from_s for piece in pieces] == sorted(piece.from_s for piece in pieces)
    for piece in pieces:
        assert len(piece.text) <= MOST_CHARACTERS + 1
        assert piece.to_s - piece.from_s <= PIECE_S * 1.5 + 20
    covered = [(piece.from_s, piece.to_s) for piece in pieces]
    for cue in cues:
        assert any(start <= cue.from_s <= end for start, end in covered) or len(cues) > len(pieces)
