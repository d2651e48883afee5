"""The forum in a browser: a question at a second, answers as they come, and posts that would be scripts."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from server.http.digests import unsubscribe_token
from server.http.keys import CONFIG
from server.http.pages import VENDOR_DIR
from tests.support.app import AppClient, serving_unlimited
from tests.support.lectures import LADDER
from tests.support.people import People, Person, sign_in
from tests.web.stage import until

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page, Route

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (VENDOR_DIR / "marked").exists(), reason="the page's parts are not there: bin/test has them"
    ),
]

PWN = "window.pwned=1"
# What posts try; each alone, and none of it may come to anything.
PAYLOADS = [
    f"<script>{PWN}</script>",
    f'<img src=x onerror="{PWN}">',
    f'<svg onload="{PWN}"></svg><svg><script>{PWN}</script></svg>',
    f'<iframe srcdoc="<script>parent.{PWN.removeprefix("window.")}</script>"></iframe>',
    f"[press](javascript:{PWN})",
    f"[press](JaVaScRiPt&colon;{PWN})",
    f"[press](data:text/html,<script>{PWN}</script>)",
    f"![x](x \"y' onerror='{PWN}\")",
    f'![a"onerror="{PWN}](x)',
    f"<details open ontoggle={PWN}>x</details>",
    f"<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror={PWN}&gt;'>",
    f'<form><button formaction="javascript:{PWN}">press</button></form>',
    f'```"><img src=x onerror={PWN}>\ncode\n```',
    f"<style>@import 'javascript:{PWN}';</style><link rel=import href=data:,{PWN}>",
    f"<a href='java\tscript:{PWN}' style='position:fixed;inset:0'>everywhere</a>",
    f"<x-evil onclick={PWN}>\n\n- list <b onmouseover={PWN}>bold</b>",
    f"|a|\n|-|\n|<input autofocus onfocus={PWN}>|",
]
# What is in the posts that is more than text: elements and attributes.
FOUND = """() => [...document.querySelectorAll(".posts .text *")].flatMap((element) => [
    element.tagName, ...[...element.attributes].map(({name, value}) => `${name}=${value}`)])"""
HARMLESS = {
    "P", "BR", "HR", "BLOCKQUOTE", "PRE", "CODE", "EM", "STRONG", "DEL", "A", "UL", "OL", "LI", "TABLE", "THEAD",
    "TBODY", "TR", "TH", "TD", "rel=nofollow ugc noopener noreferrer", "target=_blank", "dir=auto",
}  # fmt: skip


@dataclass
class Scene:
    """A server, a lecture of ten minutes, its teacher and a learner."""

    origin: str
    teacher: Person
    ada: Person
    course_id: str
    lecture_id: str
    video_id: str

    async def enter(self, page: "Page", name: str) -> None:
        """Sign in and open the lecture."""
        await page.goto(f"{self.origin}/#/signin")
        await sign_in(page, name)
        await page.get_by_role("link", name=name).wait_for()
        await page.goto(f"{self.origin}/#/lectures/{self.lecture_id}")
        await page.get_by_role("heading", name="Questions").wait_for()

    async def ask(self, title: str, content: str, **members: Any) -> Any:
        """A topic of Ada's."""
        body = {"course_id": self.course_id, "title": title, "content": content} | members
        return await self.ada.make("/api/forums/topics", body)


@pytest.fixture
async def client(postgres_dsn: str, redis_url: str) -> AsyncIterator[AppClient]:
    async with serving_unlimited(postgres_dsn, redis_url, {"events": {"look_s": 0.1}}) as client:
        yield client


@pytest.fixture
async def scene(client: AppClient, sql: "asyncpg.Connection[asyncpg.Record]") -> Scene:
    people = People(client, sql)
    teacher, ada = await people.join("teacher", "instructor"), await people.join("ada")
    course = await teacher.make("/api/courses", {"title": "Queues", "status": "published"})
    lecture = await teacher.make(f"/api/courses/{course['id']}/lectures", {"title": "A", "duration": 600})
    video_id = await sql.fetchval(
        "INSERT INTO videos (lecture_id, upload_user_id, title, cloudflare_uid, status, duration_seconds, ladder,"
        " segment_s) VALUES ($1, $2, 'A', 'uid', 'ready', 600, $3::text::jsonb, 2) RETURNING id",
        lecture["id"],
        teacher.id,
        orjson.dumps(LADDER).decode(),
    )
    await ada.make("/api/enrollments", {"course_id": course["id"]})
    origin = str(client.make_url("")).rstrip("/")
    return Scene(origin, teacher, ada, course["id"], lecture["id"], str(video_id))


async def test_a_question_at_a_second_is_answered_live_and_solved(scene: Scene, browser: "Browser") -> None:
    contexts = [await browser.new_context() for _ in range(2)]
    ada, teacher = [await context.new_page() for context in contexts]
    await scene.enter(ada, "ada")
    await scene.enter(teacher, "teacher")
    await ada.evaluate("document.querySelector('video').currentTime = 83")

    forum = ada.get_by_role("region", name="Questions")
    await forum.get_by_text("Ask a question").click()
    await forum.get_by_label("Your question in a line").fill("Why a queue?")
    await forum.get_by_label("Your question", exact=True).fill("Because **it** waits?")
    await forum.get_by_label("At 1:23").wait_for()
    await forum.get_by_role("button", name="Ask").click()
    await ada.get_by_role("heading", name="Why a queue?").wait_for()
    await ada.locator(".posts strong", has_text="it").wait_for()

    # The teacher did nothing: the question, its mark and the badge come by themselves.
    await teacher.get_by_role("button", name="Why a queue?, at 1:23").wait_for()
    await teacher.get_by_title("1 question with something new").wait_for()
    await teacher.get_by_role("button", name="Why a queue?, at 1:23").click()
    assert await teacher.evaluate("document.querySelector('video').currentTime") == 83
    await teacher.get_by_label("Your answer").fill("It decouples.")
    await teacher.get_by_role("button", name="Answer").click()

    await ada.get_by_text("It decouples.").wait_for()
    await ada.get_by_role("button", name="This is the solution").last.click()
    await teacher.get_by_text("· solution").wait_for()
    await teacher.get_by_role("button", name="Lock").click()
    await ada.get_by_label("Your answer").wait_for(state="hidden")
    await teacher.get_by_role("button", name="← All questions").click()
    await teacher.get_by_label("Search the questions").fill("decouple")
    await teacher.locator(".topics .meta", has_text="Locked · Solved").wait_for()
    for context in contexts:
        await context.close()


async def test_a_question_and_an_answer_are_posted_once_although_sent_twice(scene: Scene, page: "Page") -> None:
    lost: list[str] = []

    async def lose(route: "Route") -> None:
        if route.request.method != "POST" or route.request.url in lost:
            await route.continue_()
            return
        lost.append(route.request.url)
        await route.fetch()
        await route.abort()

    await scene.enter(page, "ada")
    forum = page.get_by_role("region", name="Questions")
    await forum.get_by_text("Ask a question").click()
    await forum.get_by_label("Your question in a line").fill("Why a queue?")
    await forum.get_by_label("Your question", exact=True).fill("Because it waits?")
    await page.route("**/api/forums/topics", lose)
    await page.route("**/api/forums/topics/*/posts", lose)
    await forum.get_by_role("button", name="Ask").click()
    await forum.get_by_text("The server cannot be reached.").wait_for()
    await forum.get_by_role("button", name="Ask").dblclick()
    await page.get_by_role("heading", name="Why a queue?").wait_for()
    await page.get_by_label("Your answer").fill("It does.")
    await page.get_by_role("button", name="Answer").click()
    await forum.get_by_text("The server cannot be reached.").wait_for()
    await page.get_by_role("button", name="Answer").dblclick()
    await page.locator(".posts > li").nth(1).wait_for()
    # What comes after it is another answer, even in the same words.
    await page.get_by_label("Your answer").fill("It does.")
    await page.get_by_role("button", name="Answer").click()
    await page.locator(".posts > li").nth(2).wait_for()
    topics = (await scene.ada.get(f"/api/forums/courses/{scene.course_id}/topics")).body["items"]
    assert [(topic["title"], topic["post_count"]) for topic in topics] == [("Why a queue?", 3)]
    assert len(lost) == 2
    # Nor is what was posted deleted twice, which would be told as a fault.
    deleted: list[str] = []
    page.on("request", lambda request: deleted.append(request.url) if request.method == "DELETE" else None)
    button = page.locator(".posts > li").nth(2).get_by_role("button", name="Delete")
    page.once("dialog", lambda dialog: dialog.dismiss())
    await button.click()
    assert deleted == [], "it was asked before"
    page.on("dialog", lambda dialog: dialog.accept())
    await button.evaluate("button => { button.click(); button.click(); }")
    await page.get_by_text("This post was deleted.").wait_for()
    assert len(deleted) == 1


async def test_what_was_shown_of_a_long_list_is_still_there_when_something_new_comes(
    scene: Scene, page: "Page"
) -> None:
    for number in range(21):
        await scene.ask(f"Question {number}", "Many words.")
    await scene.enter(page, "teacher")
    await page.get_by_role("button", name="More").click()
    await page.get_by_role("button", name="Question 0").wait_for()
    await scene.ask("Another one", "Few words.")
    await page.get_by_role("button", name="Another one").wait_for()
    assert await page.get_by_role("button", name="Question 0").is_visible()


async def test_what_is_left_of_a_list_of_questions_does_not_land_in_another(scene: Scene, page: "Page") -> None:
    for number in range(21):
        await scene.ask(f"Question {number}", "Many words.")
    gate = asyncio.Event()

    async def later(route: "Route") -> None:
        await gate.wait()
        await route.continue_()

    await scene.enter(page, "teacher")
    async with page.expect_request("**/topics?*cursor=*"):
        await page.route("**/topics?*cursor=*", later)
        await page.get_by_role("button", name="More").click()
    async with page.expect_response("**/topics?*lecture_id=*"):
        await page.get_by_label("Which questions").select_option("This lecture")
    await page.get_by_text("Nothing here yet.").wait_for()
    async with page.expect_response("**/topics?*cursor=*"):
        gate.set()
    await page.wait_for_timeout(300)
    assert await page.locator(".topics > li").all_inner_texts() == ["Nothing here yet."]


async def test_what_is_being_written_outlives_a_reload_and_having_to_sign_in_anew(scene: Scene, page: "Page") -> None:
    await scene.ask("Why a queue?", "Because it waits?")
    await scene.enter(page, "ada")
    await page.get_by_text("Ask a question").click()
    await page.get_by_label("Your question in a line").fill("Why a stack?")
    await page.get_by_label("Your question", exact=True).fill("Since it is")
    await page.get_by_label("Ask the tutor").fill("What is a heap?")
    await page.get_by_role("button", name="Why a queue?").click()
    await page.get_by_label("Your answer").fill("It does, and")
    await page.get_by_role("button", name="← All questions").click()
    await page.reload()
    await page.get_by_text("Ask a question").click()
    assert await page.get_by_label("Your question in a line").input_value() == "Why a stack?"
    assert await page.get_by_label("Your question", exact=True).input_value() == "Since it is"
    assert await page.get_by_label("Ask the tutor").input_value() == "What is a heap?"

    await page.get_by_role("button", name="Why a queue?").click()
    assert await page.get_by_label("Your answer").input_value() == "It does, and"
    await page.evaluate(
        "localStorage['lectern.account'] = JSON.stringify("
        "{...JSON.parse(localStorage['lectern.account']), access_token: 'old', refresh_token: 'older'})"
    )
    await page.get_by_role("button", name="Answer").click()
    await page.get_by_text("You are not signed in any more. Sign in to go on.").wait_for()
    await page.get_by_role("link", name="Sign in").click()
    await sign_in(page, "ada")
    await page.get_by_role("button", name="Why a queue?").click()
    assert await page.get_by_label("Your answer").input_value() == "It does, and"

    # What was sent is no draft any more, and nobody else's ever was.
    await page.get_by_role("button", name="Answer").click()
    await page.locator(".posts > li").nth(1).wait_for()
    await page.reload()
    await page.get_by_role("button", name="Why a queue?").click()
    assert await page.get_by_label("Your answer").input_value() == ""
    await page.get_by_role("button", name="Sign out").click()
    await scene.enter(page, "teacher")
    assert await page.get_by_label("Ask the tutor").input_value() == ""


async def test_what_is_wrong_with_a_question_is_said(scene: Scene, page: "Page") -> None:
    await scene.enter(page, "ada")
    forum = page.get_by_role("region", name="Questions")
    await forum.get_by_text("Ask a question").click()
    await forum.get_by_label("Your question in a line").fill(" ")
    await forum.get_by_label("Your question", exact=True).fill(" ")
    await forum.get_by_role("button", name="Ask", exact=True).click()
    await page.get_by_text("Title: must not be blank; content: must not be blank.").wait_for()


async def test_what_goes_wrong_far_below_is_said_in_sight(scene: Scene, page: "Page") -> None:
    await scene.ask("A long one", "Many words.\n\n" * 200)
    await scene.enter(page, "ada")
    await page.get_by_role("button", name="A long one").click()
    await page.route("**/posts", lambda route: route.abort())
    await page.get_by_label("Your answer").fill("Mine.")
    await page.get_by_role("button", name="Answer", exact=True).click()
    said = page.get_by_text("The server cannot be reached.")
    await said.wait_for()
    top = await said.evaluate("(said) => said.getBoundingClientRect().top")
    assert 0 <= top < await page.evaluate("innerHeight")
    # It is over with the next try.
    await page.unroute("**/posts")
    await page.get_by_role("button", name="Answer", exact=True).click()
    await page.get_by_text("Mine.", exact=True).wait_for()
    assert await said.count() == 0


async def test_of_many_marks_one_is_on_the_way_and_arrows_lead_on_in_the_lecture_s_order(
    scene: Scene, page: "Page"
) -> None:
    for title, position in (("Sooner", 60), ("Last", 500), ("Later", 300)):
        await scene.ask(title, "Why?", lecture_id=scene.lecture_id, position=position)
    await scene.enter(page, "ada")
    await page.get_by_role("button", name="Sooner, at 1:00").focus()
    for key, mark in (("Right", "Later, at 5:00"), ("Right", "Last, at 8:20"), ("Left", "Later, at 5:00")):
        await page.keyboard.press(f"Arrow{key}")
        assert await page.evaluate("document.activeElement.ariaLabel") == mark
    tabbed = "[...document.querySelectorAll('.marks button')].map((mark) => mark.tabIndex)"
    assert await page.evaluate(tabbed) == [-1, 0, -1]
    # Something new comes, and one stays at the same mark.
    await scene.ask("First", "Why?", lecture_id=scene.lecture_id, position=10)
    await page.get_by_role("button", name="First, at 0:10").wait_for()
    assert await page.evaluate("document.activeElement.ariaLabel") == "Later, at 5:00"


async def test_by_keyboard_one_stays_where_one_is_whatever_is_made_anew(scene: Scene, page: "Page") -> None:
    await scene.ask("Why a queue?", "Because it waits?")
    await scene.enter(page, "teacher")

    async def press(name: str) -> None:
        await page.get_by_role("button", name=name, exact=True).focus()
        await page.keyboard.press("Enter")

    async def focused(name: str) -> None:
        await until(page, f"document.activeElement.textContent === '{name}'")

    await press("Why a queue?")
    await press("Pin")
    await focused("Unpin")
    await press("This is the solution")
    await focused("Not the solution")
    await page.get_by_label("Your answer").fill(f"```\n{'a = b + c; ' * 50}\n```")
    await press("Answer")
    await page.locator(".posts pre").wait_for()
    await focused("Answer")
    # All of it is in sight: along what scrolls sideways only a pointer gets.
    hidden = "(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)(document.querySelector('pre'))"
    assert await page.evaluate(hidden) == 0
    await press("← All questions")
    await focused("Why a queue?")
    # Something new comes, above the one that is looked at.
    await scene.ask("Another one", "Few words.")
    await page.get_by_role("button", name="Another one").wait_for()
    await focused("Why a queue?")


async def test_what_is_left_of_a_long_topic_does_not_land_in_another(scene: Scene, page: "Page") -> None:
    long = await scene.ask("A long one", "Many words.")
    for number in range(100):
        await scene.ada.make(f"/api/forums/topics/{long['id']}/posts", {"content": f"Word {number}"})
    await scene.ask("A short one", "Few words.")
    gate = asyncio.Event()

    async def later(route: "Route") -> None:
        await gate.wait()
        await route.continue_()

    await scene.enter(page, "teacher")
    async with page.expect_request("**/api/forums/topics/*cursor=*"):
        await page.route("**/api/forums/topics/*cursor=*", later)
        await page.get_by_role("button", name="A long one").click()
    await page.get_by_role("button", name="← All questions").click()
    await page.get_by_role("button", name="A short one").click()
    await page.get_by_text("Few words.").wait_for()
    async with page.expect_response("**/api/forums/topics/*cursor=*"):
        gate.set()
    assert await page.evaluate("new Promise((done) => setTimeout(() => done(true), 300))")
    assert await page.locator(".posts > li").count() == 1


async def test_a_script_in_a_post_never_runs_whatever_the_policy(scene: Scene, browser: "Browser") -> None:
    topic = await scene.ask("<img src=x onerror=window.pwned=1>", PAYLOADS[0])
    for payload in PAYLOADS[1:]:
        await scene.ada.make(f"/api/forums/topics/{topic['id']}/posts", {"content": payload})
    # Without the page's policy, which would stop most of it by itself.
    context = await browser.new_context(bypass_csp=True)
    page = await context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await scene.enter(page, "teacher")
    await page.get_by_role("button", name="<img src=x onerror=window.pwned=1>").click()
    posts = page.locator(".posts > li")
    await posts.nth(len(PAYLOADS) - 1).locator(".text > *").first.wait_for()
    assert await posts.count() == len(PAYLOADS)
    # As it was written, for everybody to read.
    assert PAYLOADS[0] in await posts.first.inner_text()
    for link in await page.locator(".posts .text a").all():
        await link.dispatch_event("click")
    for element in await page.locator(".posts .text *").all():
        await element.dispatch_event("mouseover")
    assert await page.evaluate("window.pwned") is None
    found = set(await page.evaluate(FOUND))
    assert {item for item in found if item not in HARMLESS and not item.startswith(("href=", "class="))} == set()
    assert not [
        item for item in found if item.startswith("href=") and not item.startswith(("href=http", "href=mailto:"))
    ]
    assert [url for url in asked if not url.startswith((scene.origin, "data:", "blob:"))] == []
    await context.close()


async def test_mails_are_wanted_on_the_account_page_and_ended_by_their_link(
    scene: Scene, client: AppClient, page: "Page"
) -> None:
    await scene.enter(page, "ada")
    await page.goto(f"{scene.origin}/#/account")
    await page.get_by_label("Once a day, what I have not read").check()
    await page.get_by_text("You get a mail when there is something new").wait_for()
    assert (await scene.ada.get("/api/forums/digest")).body == {"enabled": True}
    assert client.app is not None
    token = unsubscribe_token(client.app[CONFIG], UUID(scene.ada.id))
    await page.goto(f"{scene.origin}/#/unsubscribe/{token}")
    await page.get_by_role("button", name="No more of these mails").click()
    await page.get_by_role("heading", name="No more of these mails").wait_for()
    assert (await scene.ada.get("/api/forums/digest")).body == {"enabled": False}


async def test_a_page_says_where_the_other_device_is(scene: Scene, page: "Page") -> None:
    session = await scene.ada.make(f"/api/videos/{scene.video_id}/sessions", {"device": "phone"})
    await scene.enter(page, "ada")
    frame = {"seq": 1, "position": 125.0, "cmcd": {"sta": "p"}}
    await scene.ada.post(f"/api/videos/sessions/{session['session_id']}/network", frame)
    await page.get_by_text("Your phone is at 2:05.").wait_for()
    await page.get_by_role("button", name="Continue from there").focus()
    frame = {"seq": 2, "position": 127.0, "cmcd": {"sta": "p"}}
    await scene.ada.post(f"/api/videos/sessions/{session['session_id']}/network", frame)
    await page.get_by_text("Your phone is at 2:07.").wait_for()
    # What leads there is still under one's fingers.
    await page.keyboard.press("Enter")
    await page.get_by_text("Your phone is at").wait_for(state="hidden")
    assert await page.evaluate("document.querySelector('video').currentTime") == 127
