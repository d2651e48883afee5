"""What the demo courses say: whole, and as long as a short lecture is."""

import pytest

from demo.accounts import ACCOUNTS
from demo.content import COURSES, Course, Lecture
from demo.diagrams import KINDS
from demo.narration import Narration, narrate, tone, voice

LECTURES = [(course, lecture) for course in COURSES for lecture in course.lectures]
by_name = pytest.mark.parametrize(("course", "lecture"), LECTURES, ids=[lecture.name for _, lecture in LECTURES])


def test_there_are_two_courses_and_the_first_one_is_about_this_server() -> None:
    assert [course.title for course in COURSES] == ["How this server works", "Reading a network"]


def test_names_and_titles_are_used_once() -> None:
    for names in (
        [course.title for course in COURSES],
        [lecture.name for _, lecture in LECTURES],
        [lecture.title for _, lecture in LECTURES],
    ):
        assert len(names) == len(set(names))


def test_the_first_lecture_of_a_course_can_be_seen_before_one_enrols() -> None:
    for course in COURSES:
        assert [lecture.is_preview for lecture in course.lectures] == [True] + [False] * (len(course.lectures) - 1)


def test_there_is_one_account_of_each_role_with_a_password_that_may_be_used() -> None:
    assert [account.role for account in ACCOUNTS] == ["student", "instructor", "admin"]
    assert all(8 <= len(account.password) <= 256 for account in ACCOUNTS)


@by_name
def test_every_scene_is_spoken_and_has_its_picture(course: Course, lecture: Lecture) -> None:
    assert lecture.scenes[0].diagram == "Title"
    for scene in lecture.scenes:
        assert scene.says
        assert all(sentence == sentence.strip() and sentence[-1] in ".?!:" for sentence in scene.says)
        KINDS[scene.diagram](course, lecture, scene)


@by_name
def test_a_lecture_takes_two_to_three_minutes(course: Course, lecture: Lecture, spoken: dict[str, Narration]) -> None:
    assert 120 <= spoken[lecture.name].length_s <= 180


@by_name
def test_without_a_voice_a_lecture_takes_about_as_long(course: Course, lecture: Lecture) -> None:
    silent = narrate(lecture, None)
    assert not silent.spoken
    assert 90 <= silent.length_s <= 200
    assert max(tone("A soft bell.")) > 1000


@pytest.fixture(scope="module")
def spoken() -> dict[str, Narration]:
    """Each lecture's narration, spoken where there is a voice."""
    if voice() is None:
        pytest.skip("no speech library on this platform")
    return {lecture.name: narrate(lecture, voice()) for _, lecture in LECTURES}
