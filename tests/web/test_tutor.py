"""Asking the tutor beside a lecture: what was refused, broke off or was cut is there again."""

import asyncio

import pytest
from playwright.async_api import Page

from tests.web.classroom import Enter
from tests.web.stage import FIRST, SECOND, Stage, until

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("code", ["busy", "rate_limited", "bad_frame"])
async def test_a_question_that_the_tutor_refused_is_there_to_be_asked_again(
    stage: Stage, page: Page, enter: Enter, code: str
) -> None:
    stage.tutor_refuses = code
    await enter()
    await until(page, "lectern.state()?.tutor?.connected")
    await page.fill("#question", "Why a queue?")
    await page.click(".ask-tutor button[type=submit]")
    await until(page, "lectern.state().tutor.note !== '' && !lectern.state().tutor.asking")
    stage.tutor_refuses = None
    await page.click(".ask-tutor button[type=submit]", timeout=5000)
    await page.wait_for_selector("text=An answer.")
    assert [question["message"] for question in stage.asked] == ["Why a queue?"] * 2
    assert await page.input_value("#question") == ""
    assert await page.is_enabled(".ask-tutor button[type=submit]")


async def test_who_reloads_in_mid_answer_sees_it_go_on_in_its_place_and_can_stop_it(
    stage: Stage, page: Page, enter: Enter
) -> None:
    stage.tutor_running, stage.tutor_texts = {"turn": 2, "id": "m2", "last_turn": 2}, {2: "So far."}
    nothing = {"citations": [], "recommendations": []}
    stage.tutor_said = [
        {"turn": 2, "message": "And a stack?", "is_user": True, "status": "running", **nothing},
        {"turn": 1, "message": "What came", "is_user": False, "status": "failed", **nothing},
        {"turn": 1, "message": "What is a queue?", "is_user": True, "status": "failed", **nothing},
    ]
    await enter()
    await until(page, "lectern.state()?.tutor?.running === 2")
    assert not await page.is_enabled(".ask-tutor button[type=submit]"), "one question at a time"
    talk = "[...document.querySelectorAll('.talk p:not([hidden])')].map((part) => part.textContent).join('|')"
    broke_off = "What came|The answer broke off. Ask again"
    await until(page, f"{talk} === 'What is a queue?|{broke_off}|And a stack?|So far.'")
    assert await page.get_attribute(".talk", "aria-busy") == "true"
    await page.get_by_role("button", name="Stop").click()
    await until(page, "lectern.state().tutor.running === null")
    assert stage.tutor_stopped == ["m2"]
    assert await page.get_attribute(".talk", "aria-busy") == "false"
    assert await page.is_enabled(".ask-tutor button[type=submit]")


async def test_who_asks_by_keyboard_is_before_the_answer(stage: Stage, page: Page, enter: Enter) -> None:
    await enter()
    await until(page, "lectern.state()?.tutor?.connected")
    await page.press("text=Explain what was just said", "Enter")
    await page.wait_for_selector("text=An answer.")
    assert await page.evaluate("document.activeElement.textContent") == "Tutor"


@pytest.mark.parametrize("deleted", [False, True])
async def test_who_comes_back_is_shown_the_rest_of_an_answer_and_then_what_was_asked_elsewhere(
    stage: Stage, page: Page, enter: Enter, *, deleted: bool
) -> None:
    stage.tutor_hangs = True
    await enter()
    await until(page, "lectern.state()?.tutor?.connected")
    await page.fill("#question", "Why a queue?")
    await page.click(".ask-tutor button[type=submit]")
    await page.wait_for_selector("text=An answer.")
    stage.tutor_texts = {1: " And its rest.", 2: "Another."}
    if deleted:
        del stage.tutor_texts[1]
    stage.tutor_running = {"turn": 2, "id": "m2", "last_turn": 2}
    assert stage.tutor_socket is not None
    await stage.tutor_socket.send_json({"type": "bye", "code": 1012, "retry_ms": 1500})
    await stage.tutor_socket.close(code=1012)
    sent_away = asyncio.get_running_loop().time()
    await until(page, "lectern.state().tutor.running === 2")
    assert stage.tutor_opened[-1] - sent_away > 1.4, "not before it was told to"
    answers = "[...document.querySelectorAll('.answer')].map((part) => part.textContent).join('|')"
    first = "An answer." if deleted else "An answer. And its rest."
    await until(page, f"{answers} === '{first}|Another.'")
    said = await page.inner_text(".talk")
    assert ("deleted" in said) is deleted


async def test_what_broke_off_is_asked_again_as_it_was_and_not_about_where_the_learner_is_by_then(
    stage: Stage, page: Page, enter: Enter
) -> None:
    stage.tutor_breaks_off = True
    await enter()
    await until(page, "lectern.state()?.tutor?.connected")
    await page.get_by_role("button", name="Explain what was just said").click()
    again = page.get_by_role("button", name="Ask again")
    await again.wait_for()
    stage.tutor_breaks_off = False
    await again.click()
    await until(page, "document.querySelectorAll('.answer').length === 2 && lectern.state().tutor.running === null")
    asked, retried = stage.asked
    assert asked["video_session_id"]
    assert set(retried) == {"type", "id", "retry_of"}
    assert retried["retry_of"] == 1


async def test_a_citation_of_another_lecture_says_so(stage: Stage, page: Page, enter: Enter) -> None:
    cited = [{"lecture_id": lecture, "from": 27, "to": 30, "quote": "A queue."} for lecture in (FIRST, SECOND)]
    await enter()
    await page.wait_for_selector(".outline li")
    await until(page, "lectern.state().tutor.connected")
    assert stage.tutor_socket is not None
    await stage.tutor_socket.send_json({"type": "accepted", "id": "m1", "message": "What waits?", "turn": 1})
    await stage.tutor_socket.send_json({"type": "done", "turn": 1, "citations": cited, "recommendations": []})
    await page.wait_for_selector(".citation")
    assert await page.locator(".citation b").all_inner_texts() == ["0:27", "0:27 of “The epoch is the fence”"]
