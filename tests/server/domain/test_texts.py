"""Pieces hold all of a text, in order, none too long, and end with sentences where there are some."""

from hypothesis import given
from hypothesis import strategies as st

from server.domain.texts import MOST_PIECES, PIECE_CHARACTERS, cut_pages, plain

SENTENCE = "A queue gives back what came first, and a stack what came last. "


def test_pieces_end_with_sentences_and_never_cross_a_page() -> None:
    pieces = cut_pages([(1, SENTENCE * 20), (2, "The end.")])
    assert [piece.page for piece in pieces] == [1, 1, 1, 2]
    assert all(piece.text.endswith(".") for piece in pieces)


def test_a_word_that_a_line_divided_is_one_again() -> None:
    assert plain("Two threads dead-\nlock, well-\nKnown.\n\n Yes\0.") == "Two threads deadlock, well- Known. Yes."


def test_there_is_an_end_to_pieces() -> None:
    assert len(cut_pages([(n, "word") for n in range(MOST_PIECES + 5)])) == MOST_PIECES


@given(st.lists(st.text(max_size=3000), max_size=3))
def test_nothing_is_lost_and_nothing_too_long(texts: list[str]) -> None:
    pages = list(enumerate(texts, start=1))
    pieces = cut_pages(pages)
    assert all(0 < len(piece.text) <= PIECE_CHARACTERS * 1.5 for piece in pieces)
    for number, text in pages:
        told = "".join(piece.text for piece in pieces if piece.page == number)
        assert told.replace(" ", "") == plain(text).replace(" ", "")
        told.encode()
