"""What is measured of the tutor's search is what it says: honest spans, fair rivals, the product's own search."""

from collections import Counter
from pathlib import Path

import pytest

from loadtests.tutor.__main__ import CATALOGUE, NOT_FOUND, VIDEO, Bench, Ranks, show
from loadtests.tutor.bm25 import Windows
from loadtests.tutor.material import Question, read_lectures
from server.data.db import Database


def test_the_material_is_large_enough_and_half_of_it_is_held_out() -> None:
    lectures = read_lectures()
    assert len(lectures) >= 76
    asked = [question for lecture in lectures for question in lecture.questions]
    assert len([question for question in asked if question.is_named]) >= 200
    assert len([question for question in asked if not question.is_named]) >= 200
    questioned = [lecture for lecture in lectures if lecture.questions]
    assert len([lecture for lecture in questioned if lecture.is_held_out]) * 2 == len(questioned) >= 40
    for lecture in questioned:
        assert all(0 <= q.from_s < q.to_s <= lecture.cues[-1].to_s for q in lecture.questions)


def test_a_file_that_does_not_keep_the_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("# C\n\n## L\nOne sentence. Two.\n?2-3 what about a third\n")
    with pytest.raises(ValueError, match="does not fit"):
        read_lectures(tmp_path)


def test_a_hit_holds_half_of_the_answer_or_is_half_in_it() -> None:
    question = Question("?", 10.0, 20.0, False)
    assert question.is_answered_in(0.0, 15.0)
    assert question.is_answered_in(14.0, 16.0)
    assert not question.is_answered_in(0.0, 14.0)
    assert not question.is_answered_in(20.0, 30.0)


def test_figures_are_those_of_the_ranks() -> None:
    ranks = Ranks([0, 2, 3, NOT_FOUND])
    assert (ranks.hit(1), ranks.hit(3)) == (0.25, 0.5)
    assert ranks.mrr == pytest.approx((1 + 1 / 3 + 1 / 4) / 4)


def test_the_rival_prefers_rare_words() -> None:
    lecture = read_lectures()[0]
    windows = Windows.of(lecture)
    assert "".join(window.text for window in windows).replace(" ", "") == "".join(
        cue.text for cue in lecture.cues
    ).replace(" ", "")
    stems = {window.text: Counter(window.text.lower().split()) for window in windows}
    assert "bufferbloat." in stems[Windows(windows, stems).ranked(Counter(["the", "bufferbloat."]))[0].text]


async def test_a_measurement_asks_every_question_of_the_product(postgres_dsn: str) -> None:
    lectures = [lecture for lecture in read_lectures() if lecture.questions][:2]
    db = await Database.open(postgres_dsn, pool_size=2, timeout_s=10)
    bench = Bench(db, None, lectures)
    await bench.load()
    await bench.ask_bm25("BM25")
    await bench.ask("ours", None)
    await db.close()
    asked = sum(len(lecture.questions) for lecture in lectures)
    for name, scope in (("BM25", VIDEO), ("BM25", CATALOGUE), ("ours", VIDEO), ("ours", CATALOGUE)):
        ranks = [rank for (n, s, _, _), told in bench.ranks.items() if (n, s) == (name, scope) for rank in told.ranks]
        assert len(ranks) == asked
        assert Ranks(ranks).hit(3) > 0.4
    assert "that name their subject: ours" in show(bench, ["BM25", "ours"])
