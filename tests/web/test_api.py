"""How the page asks the server."""

import pytest
from playwright.async_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

# Asks over a network on which so many seconds go by before each piece of the answer: a byte each.
ASK = """async (seconds) => {
    AbortSignal.timeout = (ms) => {  // by the page's clock, as all other times
        const controller = new AbortController();
        setTimeout(() => controller.abort(), ms);
        return controller.signal;
    };
    const bytes = [...new TextEncoder().encode('"Ådä"')];
    window.fetch = async (_, { signal }) => {
        const pull = async (body) => {
            await goBy(seconds);
            if (signal.aborted) body.error(signal.reason);
            else if (bytes.length > 0) body.enqueue(Uint8Array.of(bytes.shift()));
            else body.close();
        };
        return new Response(new ReadableStream({ pull }, { highWaterMark: 0 }));
    };
    const { Api } = await import("/web/api.js");
    return new Api().call("GET", "/api/courses").catch(({ code }) => code);
}"""


@pytest.mark.parametrize(("seconds", "answer"), [(9, "Ådä"), (11, "unreachable")])
async def test_a_long_answer_over_a_slow_network_is_waited_for_as_long_as_it_comes(
    origin: str, page: Page, seconds: int, answer: str
) -> None:
    await page.clock.install(time=0)
    await page.expose_function("goBy", lambda seconds: page.clock.fast_forward(seconds * 1_000))
    await page.goto(f"{origin}/bare")
    await page.clock.pause_at(1_000)
    assert await page.evaluate(ASK, seconds) == answer
