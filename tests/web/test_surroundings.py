"""What is around a lecture, before an API that counts what it is asked for."""

import pytest
from playwright.async_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

OPEN = """async (count) => {
    const { Surroundings } = await import("/web/surroundings.js");
    const lectures = Array.from({ length: count }, (_, n) => ({ id: `${n}`, title: `Lecture ${n}`, progress: null }));
    window.asked = 0;
    const api = { user: null, course: async () => ({ title: "A course" }), lectures: async () => (asked++, lectures) };
    const around = new Surroundings({ api, lectureId: "0", session: () => null, duration: () => 60, movedAt: () => 0 });
    await around.open({ id: "0", course_id: "1" });
}"""


@pytest.mark.parametrize(("count", "every_s"), [(2, 15), (300, 225)])
async def test_how_far_one_is_takes_no_more_of_the_network_in_a_course_of_many_lectures(
    origin: str, page: Page, count: int, every_s: int
) -> None:
    await page.clock.install(time=0)
    await page.goto(f"{origin}/bare")
    await page.clock.pause_at(1_000)
    await page.evaluate(OPEN, count)
    await page.clock.fast_forward((every_s - 1) * 1_000)
    assert await page.evaluate("asked") == 1
    await page.clock.fast_forward(1_000)
    assert await page.evaluate("asked") == 2
