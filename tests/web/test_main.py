"""The page's frame in a browser: what stands above every page, and what holds for all of them."""

import asyncio

import pytest
from playwright.async_api import Page, Route

from tests.web.stage import COURSE, FIRST, SECOND, VIDEO, Stage, fail_once, until
from tests.web.test_catalogue import BEGUN, sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

# Whether what an element begins with stands to the right of what it ends with.
BACKWARDS = """(where) => {
    const text = document.querySelector(where).firstChild;
    const [begins, ends] = [0, text.length - 1].map((at) => {
        const range = document.createRange();
        range.setStart(text, at);
        range.setEnd(text, at + 1);
        return range.getBoundingClientRect().left;
    });
    return ends < begins;
}"""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


async def test_on_a_phone_all_is_within_the_window_and_can_be_reached(stage: Stage, origin: str, page: Page) -> None:
    stage.course_title = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
    stage.role = "admin"
    await page.set_viewport_size({"width": 360, "height": 740})
    await sign_in(page, origin, "W" * 64)
    await page.wait_for_selector(".who", state="attached")
    for where, shown in ((f"courses/{COURSE}", ".lectures"), (f"lectures/{FIRST}", ".upload")):
        await page.goto(f"{origin}/#/{where}")
        await page.wait_for_selector(shown)
        assert await page.evaluate(WIDER) == 0
    # What leads to the account is as wide as a thumb, whoever it names and whatever stands beside it.
    assert await page.evaluate("document.querySelector('.who').getBoundingClientRect().width") > 40


async def test_each_page_has_a_title_of_its_own_and_says_so_first(stage: Stage, origin: str, page: Page) -> None:
    await page.goto(origin)
    for where, title in (
        ("signin", "Sign in"),
        (f"courses/{COURSE}", stage.course_title),
        ("nowhere", "Nothing here"),
        ("plans", "That did not work"),  # this server has none
        ("", "Courses"),
    ):
        await page.evaluate("where => (location.hash = '#/' + where)", where)
        await until(page, f"document.title === '{title} · Lectern'")
        assert await page.evaluate("document.activeElement.textContent") == title
    await page.click("text=Sign in")
    for link, title in (("Create an account", "Create an account"), ("Sign in", "Sign in")):
        await page.click(f".aside >> text={link}")
        await until(page, f"document.title === '{title} · Lectern'")


async def test_by_keyboard_one_stays_at_what_one_pressed_and_is_read_where_one_came(
    stage: Stage, origin: str, page: Page
) -> None:
    await page.add_init_script("document.addEventListener('focusin', ({target}) => (window.read = target.textContent))")
    await page.goto(f"{origin}/#/signin?next=%23/")
    await page.fill("#login", "ada")
    await page.fill("#password", "wrong")
    await page.press("button[type=submit]", "Enter")
    await page.wait_for_selector(".failure")
    await until(page, "document.activeElement.type === 'submit'")
    await page.fill("#password", "correct horse")
    await page.press("button[type=submit]", "Enter")
    await until(page, "read === 'Courses'")
    stage.entitled = False
    await page.evaluate(f"location.hash = '#/lectures/{SECOND}'")
    await until(page, "read === 'Lecture' && document.title === 'Lecture · Lectern'")
    stage.entitled = True
    await page.evaluate(f"location.hash = '#/lectures/{FIRST}'")
    await until(page, "read === 'An actor is a fold'")


@pytest.mark.parametrize("wanted", [f"videos/{VIDEO}", "account"])
async def test_who_must_be_known_signs_in_and_is_shown_what_was_asked_for(origin: str, page: Page, wanted: str) -> None:
    await page.route("**/api/videos/**", lambda route: route.fulfill(status=401, body="{}"))
    await page.goto(f"{origin}/#/{wanted}")
    await page.wait_for_selector("#login")
    assert await page.evaluate("location.hash") == f"#/{wanted}"


async def test_who_has_signed_in_goes_back_to_what_was_before_and_nowhere_else(origin: str, page: Page) -> None:
    async def sign_in_here() -> None:
        await page.fill("#login", "ada")
        await page.fill("#password", "correct horse")
        await page.click("button[type=submit]")

    await page.goto(f"{origin}/#/courses/{COURSE}")
    await page.click("text=Start learning")
    await sign_in_here()
    await until(page, f"location.hash === '#/lectures/{FIRST}'")
    await page.evaluate("history.back()")
    await until(page, f"location.hash === '#/courses/{COURSE}'")
    await page.click("text=Sign out")
    await until(page, "location.hash === '#/'")
    # By a lecture's own address, too.
    await page.evaluate(f"location.hash = '#/lectures/{FIRST}'")
    await sign_in_here()
    await until(page, f"location.hash === '#/lectures/{FIRST}'")
    await page.evaluate("history.back()")
    await until(page, "location.hash === '#/'")
    # What comes after it is never another's address.
    await page.goto(f"{origin}/#/signin?next=https://example.org/")
    await sign_in_here()
    await until(page, "document.title === 'Courses · Lectern'")
    assert page.url.startswith(origin)


async def test_a_page_whose_modules_do_not_come_says_so(origin: str, page: Page) -> None:
    await page.route("**/web/forum.js", lambda route: route.abort())
    await page.goto(origin)
    await page.wait_for_selector("text=This takes longer than it should. Check the connection")
    await page.unroute("**/web/forum.js")
    await page.reload()
    await page.wait_for_selector("text=Lectures that keep your place.")
    assert await page.locator(".late").count() == 0


async def test_a_style_that_did_not_come_is_asked_for_again(origin: str, page: Page) -> None:
    await fail_once(page, "**/web/style.css")
    await page.goto(origin)
    await page.wait_for_selector(".course")
    await until(page, "getComputedStyle(document.querySelector('.courses')).display === 'grid'")


async def test_what_the_network_answers_in_the_place_of_the_server_is_not_taken_for_its_answer(
    origin: str, page: Page
) -> None:
    await page.route("**/api/courses*", lambda route: route.fulfill(body="<p>Welcome to our hotel"))
    await page.goto(origin)
    await page.wait_for_selector("text=The server cannot be reached.")
    await page.unroute("**/api/courses*")
    await page.click("button >> text=Try again")
    await page.wait_for_selector(".course")


async def test_a_page_that_the_network_did_not_bring_comes_by_itself_and_is_told_of_once(
    stage: Stage, origin: str, page: Page
) -> None:
    async def refuse(route: Route) -> None:
        await (route.fulfill(status=503, body="{}") if overloaded else route.abort())

    away = f"**/api/courses/{COURSE}"
    await page.clock.install(time=0)
    await page.goto(origin)
    await page.wait_for_selector(".course")
    await page.clock.pause_at(60_000)
    for overloaded in (False, True):
        await page.route(away, refuse)
        await page.evaluate(f"location.hash = '#/courses/{COURSE}'")
        await page.focus("button >> text=Try again")
        async with page.expect_event("requestfinished" if overloaded else "requestfailed"):
            await page.clock.fast_forward(5_000)
        # What is said the same once more is not read out anew, and takes no button from under anybody's fingers.
        assert await page.evaluate("document.activeElement.textContent") == "Try again"
        await page.unroute(away)
        while await page.title() != f"{stage.course_title} · Lectern":
            await page.clock.fast_forward(5_000)
        await page.evaluate("location.hash = '#/nowhere'")
        await page.wait_for_selector("text=Nothing here")
    # Who has gone elsewhere meanwhile is not followed.
    await page.route(away, refuse)
    await page.evaluate(f"location.hash = '#/courses/{COURSE}'")
    await page.wait_for_selector("text=Try again")
    await page.evaluate("location.hash = '#/nowhere'")
    await page.wait_for_selector("text=Nothing here")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.clock.fast_forward(60_000)
    assert asked == []


async def test_what_is_written_from_right_to_left_ends_at_its_left(stage: Stage, origin: str, page: Page) -> None:
    async def ends_at_its_left(where: str) -> bool:
        await page.wait_for_selector(where)
        return bool(await page.evaluate(BACKWARDS, where))

    stage.course_title = "מה זה?"
    stage.continuations = [{**BEGUN, "course_title": "מה זה?"}]
    await sign_in(page, origin)
    assert await ends_at_its_left(".begun bdi")
    await page.goto(f"{origin}/#/courses/{COURSE}")
    assert await ends_at_its_left("h1")
    await page.goto(f"{origin}/#/lectures/{FIRST}")
    assert await ends_at_its_left(".crumbs a")
    # And a time as the reader's own language has it, amid what is written from left to right.
    written = "ada · <time>02\u200f/12\u200f/2026، 12:19 ص</time> · edited"
    await page.evaluate("(written) => (document.querySelector('.description').innerHTML = written)", written)
    assert await ends_at_its_left(".description time")


async def test_how_far_one_is_can_be_seen_where_the_system_chooses_the_colours(
    stage: Stage, origin: str, page: Page
) -> None:
    stage.continuations = [BEGUN]
    await page.emulate_media(forced_colors="active")
    await sign_in(page, origin)
    await page.wait_for_selector(".begun li")
    ground, watched = await page.evaluate(
        "['.begun li', '.watched span'].map((name) => getComputedStyle(document.querySelector(name)).backgroundColor)"
    )
    assert ground != watched


async def test_a_page_that_is_long_in_coming_shows_that_it_is_on_its_way(origin: str, page: Page) -> None:
    await page.goto(origin)
    await page.wait_for_selector(".course")
    bar = "getComputedStyle(document.querySelector('main'), '::before')"
    assert await page.evaluate(f"{bar}.content") == "none"
    asked = asyncio.Event()

    async def wait(_: Route) -> None:
        asked.set()

    await page.route(f"**/api/courses/{COURSE}", wait)
    await page.click(".course a")
    await asked.wait()
    await until(page, f"{bar}.content !== 'none' && {bar}.visibility === 'visible'")
