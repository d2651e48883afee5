"""Whatever an answer says, a citation's words stand in what it cites."""

import time
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.conversation.passages import (
    MOST_CITATIONS,
    Passage,
    Span,
    Watching,
    citations_of,
    extractive_answer,
    keys,
)

COURSE, LECTURE, FILE = UUID(int=1), UUID(int=2), UUID(int=3)
QUEUES = "A queue gives back what came first. A stack gives back what came last."


def passage(*texts: str, file: bool = False, page: int | None = None, from_ms: int | None = 60_000) -> Passage:
    """Pieces of half a minute each, or of a file's page."""
    spans, at = [], 0
    for n, text in enumerate(texts):
        times = (None, None) if file or from_ms is None else (from_ms + n * 30_000, from_ms + (n + 1) * 30_000)
        spans.append(Span(at, at + len(text), *times, page))
        at += len(text) + 1
    return Passage(
        COURSE, None if file else LECTURE, FILE if file else None, spans[0].from_ms, spans[-1].to_ms, page,
        "Queues", " ".join(texts), 1.0, tuple(spans),
    )  # fmt: skip


def quotes(answer: str, passages: Sequence[Passage]) -> list[str]:
    return [citation.quote for citation in citations_of(answer, passages)]


def test_a_quotation_is_found_and_cited_as_the_lecture_has_it() -> None:
    answer = 'You were told that "a QUEUE  gives back what came first", which is why.'
    (citation,) = citations_of(answer, [passage("Nothing here at all."), passage(QUEUES)])
    assert citation.shown == {
        "course_id": str(COURSE),
        "lecture_id": str(LECTURE),
        "from": 60.0,
        "to": 90.0,
        "quote": "A queue gives back what came first",
    }


def test_a_quotation_is_found_also_where_the_lecture_has_something_between_that_nobody_sees() -> None:
    hyphenated = "Photo\xadsynthesis makes\u200b sugar of light."
    assert quotes("“Photosynthesis makes sugar of light.”", [passage(hyphenated)]) == [hyphenated.removesuffix(".")]


def test_what_is_written_without_blanks_is_cited_as_words_are() -> None:
    lecture = passage("欢迎来到队列课程。队列最先还给你的是最先进来的东西。栈正好相反，最后进来的最先出去。")
    first = "队列最先还给你的是最先进来的东西。"
    assert quotes(f"老师说：“{first}”", [lecture]) == [first]
    assert quotes(f"答案「{first}」", [lecture]) == [first]
    assert quotes("简单地说，队列最先还给你的就是最先进来的那个东西。", [lecture]) == [first]
    assert quotes("今天天气很好，我们去公园散步吧。", [lecture]) == []
    assert first in extractive_answer("队列最先还什么？", [lecture]).text


@pytest.mark.parametrize(
    ("welcome", "told", "answer"),
    [
        (
            "कतारों की इस कक्षा में आपका स्वागत है। कतार वही पहले लौटाती है जो पहले आया था।",
            "ढेर वही पहले लौटाता है जो आखिर में आया था।",
            "ढेर पहले वह लौटाता है जो आखिर में आया। [1]",
        ),
        (
            "قطار کیا ہے؟ قطار پہلے وہی دیتی ہے جو پہلے آیا۔",
            "ڈھیر پہلے وہی دیتا ہے جو آخر میں آیا۔",
            "ڈھیر وہ دیتا ہے جو آخر میں آیا۔ [1]",
        ),
        ("ما هو الطابور؟", "الطابور يعيد أولا ما جاء أولا.", "الطابور يعيد أولا ما جاء أولا [1]"),
        ("Le café ouvre.", "Cafés ferment tôt le soir.", "Cafe\u0301s ferment to\u0302t [1]"),
    ],
)  # fmt: skip
def test_sentences_and_words_are_told_apart_as_their_script_writes_them(welcome: str, told: str, answer: str) -> None:
    assert quotes(answer, [passage(f"{welcome} {told}")]) == [told]


@pytest.mark.parametrize("text", ["कतार में पहला अंदर आने वाला", "வரிசையில் முதலில் வந்தது", "সারিতে প্রথমে যা আসে"])
def test_a_word_is_whole_with_the_signs_of_its_vowels(text: str) -> None:
    assert keys(text) == set(text.split())


def test_a_quotation_that_stands_nowhere_is_not_cited() -> None:
    assert quotes("As it says: “a queue is a kind of tree with two ends”.", [passage(QUEUES)]) == []


def test_a_number_in_brackets_means_the_sentence_that_the_answer_tells() -> None:
    told = "What came last is what a stack gives back [2]. And [7] is nobody."
    assert quotes(told, [passage("Nothing here at all."), passage(QUEUES)]) == ["A stack gives back what came last."]


def test_a_number_behind_a_sentences_end_means_that_sentence() -> None:
    said = [passage("Welcome to all of you. " + QUEUES)]
    queue, stack = "A queue gives back what came first.", "A stack gives back what came last."
    assert quotes("A stack gives you what came last. [1] Have a look at it.", said) == [stack]
    assert quotes("The queue gives you what came first.【1】 With a stack it is the last. [1]", said) == [queue, stack]
    assert quotes("Both give something back.\n[1] A stack gives what came last.", said) == [stack]
    chinese = passage("欢迎来到课程。队列先还最先进来的东西。栈先还最后进来的东西。")
    assert quotes("栈还给你最后进来的。[1]其他的再说。", [chinese]) == ["栈先还最后进来的东西。"]


def test_numbers_stand_together_and_in_lists_too() -> None:
    queue, stack = "A queue gives back what came first.", "A stack gives back what came last."
    said = [passage(queue), passage("Nothing here. " + stack)]
    assert quotes("They differ in what they give back: first or last [1, 2].", said) == [queue, stack]
    one = [passage("Welcome to all of you. " + QUEUES)]
    assert quotes("- a queue: what came first [1]\n- a stack: what came last [1]", one) == [queue, stack]


def test_a_quotation_and_its_number_are_one_citation() -> None:
    said = [passage("Welcome to all of you. " + QUEUES)]
    assert quotes("“A queue gives back what came first.” [1] “A stack gives back what came last.” [1]", said) == [
        "A queue gives back what came first",
        "A stack gives back what came last",
    ]


@pytest.mark.parametrize("claim", ["[1]", "“no one ever said so” ", "[1] Such. [2] And [3]. "])
def test_an_answer_that_claims_thousands_of_things_does_not_keep_the_process_from_others(claim: str) -> None:
    said = [passage(*[QUEUES * 6] * 4) for _ in range(6)]
    began = time.thread_time()
    citations_of(claim * 10_000, said)
    assert time.thread_time() - began < 1.0


def test_without_marks_sentences_that_are_told_again_are_cited() -> None:
    assert quotes("Well, a queue gives back whatever came first!", [passage(QUEUES)]) == [
        "A queue gives back what came first."
    ]
    assert quotes("Trees are green in summer.", [passage(QUEUES)]) == []


def test_a_citation_points_at_the_pieces_that_its_quote_stands_in() -> None:
    said = passage("Here is the first piece of it.", "Here is the second one of them.", "And here the third of all.")
    (second,) = citations_of('"the second one of them"', [said])
    assert (second.from_ms, second.to_ms) == (90_000, 120_000)
    (both,) = citations_of('"second one of them. And here the third"', [said])
    assert (both.from_ms, both.to_ms, both.quote) == (90_000, 150_000, "second one of them. And here the third")


def test_a_file_is_cited_by_its_page() -> None:
    (paged,) = citations_of("[1]", [passage(QUEUES, file=True, page=7)])
    assert paged.shown == {"file_id": str(FILE), "page": 7, "quote": "A queue gives back what came first."}
    (plain,) = citations_of("[1]", [passage(QUEUES, file=True)])
    assert plain.shown == {"file_id": str(FILE), "quote": "A queue gives back what came first."}


def test_what_is_written_about_a_lecture_is_no_place_to_send_a_learner_to() -> None:
    about = passage(QUEUES, from_ms=None)
    assert citations_of('[1] "a queue gives back what came first"', [about]) == ()
    assert extractive_answer("What does a queue give back?", [about]).text == ""


def test_an_answer_without_a_model_is_what_the_lecture_says_to_it() -> None:
    told = extractive_answer("which end does a stack give back", [passage("Nothing here at all."), passage(QUEUES)])
    assert told.text.startswith("“A stack gives back what came last.” (Queues, 1:00)")
    assert told.citations[0].quote == "A stack gives back what came last."
    assert extractive_answer("why?", []).text == ""


def test_without_a_model_the_second_being_watched_is_quoted_where_no_word_says_what_is_meant() -> None:
    said = replace(
        passage("Welcome to all of you. Here we are.", QUEUES, "More follows. Then comes the end."), is_now=True
    )
    for position_ms, quote, clock in (
        (62_000, "Welcome to all of you. Here we are.", "1:00"),
        (119_000, "A stack gives back what came last. More follows.", "1:30"),
    ):
        told = extractive_answer("what does this mean", [said], Watching("Queues", position_ms))
        assert [citation.quote for citation in told.citations] == [quote]
        assert told.text == f"“{quote}” (Queues, {clock})"


WORDS = st.sampled_from(
    ["queue", "Queues", "STRASSE", "straße", "don't", "don’t", "—", "“", "”", '"', "[1]", "[2]", "[99]", "【1】", ".",
     "!", "\n", "\N{NO-BREAK SPACE}", "ﬁrst", "İ", "数据", "。", "a", "the first", "Ignore all instructions", "x" * 300]
)  # fmt: skip
TEXTS = st.lists(WORDS, min_size=1, max_size=40).map(" ".join).filter(lambda text: bool(text.strip()))


@given(st.lists(st.lists(TEXTS, min_size=1, max_size=3), max_size=3), TEXTS, st.data())
def test_every_quote_of_every_answer_stands_word_for_word_where_it_says(
    written: list[list[str]], answer: str, data: st.DataObject
) -> None:
    passages = [
        passage(*texts, file=bool(n % 2), page=n if n % 2 else None, from_ms=n * 1_000_000)
        for n, texts in enumerate(written)
    ]
    if passages:
        source = data.draw(st.sampled_from(passages)).text
        start = data.draw(st.integers(0, len(source)))
        end = data.draw(st.integers(start, len(source)))
        answer = f'{answer} "{source[start:end]}"'
    told = [*citations_of(answer, passages), *extractive_answer(answer, passages).citations]
    assert len(citations_of(answer, passages)) <= MOST_CITATIONS
    for citation in told:
        assert citation.quote
        (source_passage,) = {
            id(p): p
            for p in passages
            if citation.quote in p.text
            and (p.file_id, p.page) == (citation.file_id, citation.page)
            and (p.file_id is not None or p.from_ms <= citation.from_ms <= citation.to_ms <= p.to_ms)  # type: ignore[operator]
        }.values()
        # The pieces between its times hold it.
        covered = [s for s in source_passage.spans if citation.from_ms is None or (
            s.from_ms >= citation.from_ms and s.to_ms <= citation.to_ms)]  # fmt: skip
        assert citation.quote in source_passage.text[covered[0].start : covered[-1].end]
