"""The mail catcher: what it is sent it shows, and does nothing else with."""

import aiohttp
import aiosmtplib

from standins.mail_catcher.__main__ import read_arguments
from standins.mail_catcher.app import KEPT
from tests.support.mail import MailBox, catching

RAW = "From: a@x.example\r\nTo: {to}\r\nSubject: {subject}\r\n\r\n{text}\r\n"


async def send(box: MailBox, subject: str = "Hello", text: str = "", to: str = "ada@x.example") -> None:
    raw = RAW.format(to=to, subject=subject, text=text)
    await aiosmtplib.send(raw, sender="a@x.example", recipients=[to], hostname="127.0.0.1", port=box.port)


async def test_mails_are_shown_newest_first_with_links_to_follow() -> None:
    async with catching() as box, aiohttp.ClientSession(box.url) as http:
        await send(box, "First")
        await send(box, "Second", "See http://localhost:8080/#/reset/abc now")
        async with http.get("/") as answer:
            page = await answer.text()
        async with http.get("/mails") as answer:
            mails = await answer.json()
    assert page.index("Second") < page.index("First")
    assert '<a href="http://localhost:8080/#/reset/abc">' in page
    assert [(mail["subject"], mail["recipients"]) for mail in mails] == [
        ("Second", ["ada@x.example"]), ("First", ["ada@x.example"]),
    ]  # fmt: skip


async def test_a_mail_is_text_to_the_page() -> None:
    async with catching() as box, aiohttp.ClientSession(box.url) as http:
        await send(box, "<script>1</script>", '<img src=x onerror="1"> http://x.example/"onclick="1')
        async with http.get("/") as answer:
            page = await answer.text()
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "<script>" not in page
    assert "<img" not in page
    assert 'onclick="' not in page


async def test_it_keeps_the_last_ones_and_forgets_when_told() -> None:
    async with catching() as box, aiohttp.ClientSession(box.url) as http:
        for n in range(KEPT + 1):
            await send(box, str(n))
        assert [box.mails[0].subject, len(box.mails)] == ["1", KEPT]
        async with http.delete("/mails") as answer:
            assert answer.status == 204
        assert box.mails == []


def test_the_command_line_says_both_ports() -> None:
    options = read_arguments(["--port", "1", "--smtp-port", "2"])
    assert (options.host, options.port, options.smtp_port) == ("127.0.0.1", 1, 2)
