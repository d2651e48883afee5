"""Mails as they go out, and what becomes of a server's refusals."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from server.config import Config
from server.services.mail import Mailer, page_address
from server.services.outside import ServiceAway, ServiceNotConfigured, ServicePutsOff, ServiceRefused, ServiceSlow
from standins.mail_catcher.app import receiving
from tests.support.mail import catching


def config(port: int, **smtp: Any) -> Config:
    section = {"host": "127.0.0.1", "port": port, "timeout_s": 20} | smtp
    return Config.model_validate({"smtp": section, "server": {"public_url": "https://learn.example.org"}})


@asynccontextmanager
async def answering(**answers: str) -> AsyncIterator[int]:
    """The port of a mail server that answers so to a command."""

    class Handler:
        pass

    def reply(text: str) -> Any:
        async def handle(*_: Any) -> str:
            return text

        return handle

    handler = Handler()
    for command, text in answers.items():
        setattr(handler, f"handle_{command}", reply(text))
    async with receiving(handler, "127.0.0.1", 0) as port:
        yield port


async def test_a_mail_arrives_as_it_was_written() -> None:
    async with catching() as box:
        await Mailer(config(box.port)).send(
            "ada@example.com", "Größe", "Zeile 1\n\nhttps://x.example/#/a\n" + "x" * 500
        )
        (mail,) = box.mails
    assert (mail.sender, mail.recipients, mail.subject) == (
        "lectern@learn.example.org", ["ada@example.com"], "Größe",
    )  # fmt: skip
    assert mail.text.replace("\r\n", "\n") == "Zeile 1\n\nhttps://x.example/#/a\n" + "x" * 500 + "\n"


async def test_an_address_of_any_script_is_written_to() -> None:
    async with catching() as box:
        await Mailer(config(box.port)).send("jürgen@exämple.com", "Hello", "Hello")
        assert box.mails[0].recipients == ["jürgen@exämple.com"]


@pytest.mark.parametrize("to", ["a,b@example.com", "a@example.com\nBcc: b@example.com", "a b@example.com", "a", ""])
async def test_what_is_not_one_address_is_written_to_nobody(to: str) -> None:
    async with catching() as box:
        with pytest.raises(ServiceRefused):
            await Mailer(config(box.port)).send(to, "Hello", "Hello")
        assert box.mails == []


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({"RCPT": "550 no such user"}, ServiceRefused),
        ({"RCPT": "450 come back later"}, ServicePutsOff),
        ({"MAIL": "553 not from you"}, ServiceRefused),
        ({"DATA": "554 spam"}, ServiceRefused),
        ({"DATA": "451 full"}, ServicePutsOff),
    ],
)
async def test_a_refusal_for_good_is_told_from_one_for_now(answers: dict[str, str], told: type[Exception]) -> None:
    async with answering(**answers) as port:
        with pytest.raises(told) as caught:
            await Mailer(config(port)).send("ada@example.com", "Hello", "Hello")
    assert type(caught.value) is told


async def test_a_password_goes_over_nothing_but_tls() -> None:
    async with catching() as box:
        with pytest.raises((ServiceAway, ServiceRefused), match=r"(?i)starttls"):
            await Mailer(config(box.port, username="u", password="p")).send("ada@example.com", "Hello", "Hello")
        assert box.mails == []


async def test_a_server_that_says_nothing_is_left_in_time() -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        over.set()

    over = asyncio.Event()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ServiceSlow):
            await Mailer(config(port, timeout_s=0.2)).send("ada@example.com", "Hello", "Hello")
        await asyncio.wait_for(over.wait(), 30)


async def test_without_a_host_there_is_no_mail() -> None:
    with pytest.raises(ServiceNotConfigured):
        await Mailer(config(25, host="")).send("ada@example.com", "Hello", "Hello")


@pytest.mark.parametrize(
    ("server", "address"),
    [
        ({"public_url": "https://learn.example.org/"}, "https://learn.example.org/#/x"),
        ({"public_url": "learn.example.org"}, "https://learn.example.org/#/x"),
        ({"host": "0.0.0.0", "port": 9000}, "http://localhost:9000/#/x"),
        ({"host": "10.0.0.5"}, "http://10.0.0.5:8080/#/x"),
    ],
)
def test_links_lead_where_the_configuration_says(server: dict[str, Any], address: str) -> None:
    assert page_address(Config.model_validate({"server": server}), "/x") == address
