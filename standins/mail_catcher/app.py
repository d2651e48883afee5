"""The catcher: takes every mail by SMTP, keeps the last ones in memory, and shows them.

| | |
|---|---|
| `GET /` | a page with the mails, newest first |
| `GET /mails` | the same as JSON: `[{"id", "received_at", "sender", "recipients", "subject", "text"}]` |
| `DELETE /mails` | forget them |
| `GET /livez` | 200 |
"""

from __future__ import annotations

import asyncio
import html
import itertools
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as email_policy
from typing import Any

from aiohttp import web
from aiosmtpd.smtp import SMTP

KEPT = 200
LARGEST_BYTES = 1 << 20

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Mails</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }}
article {{ border: 1px solid #d0d7de; border-radius: 8px; padding: 1rem; margin: 1rem 0 }}
h2 {{ font-size: 1.1rem; margin: 0 }} small {{ color: #57606a }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; margin: .75rem 0 0 }}
</style><h1>Mails</h1><p>What Lectern has sent since this was started. Nothing leaves this machine.</p>{mails}</html>"""
ARTICLE = "<article><h2>{subject}</h2><small>to {to}, {at}</small><pre>{text}</pre></article>"
LINK = re.compile(r"https?://[^\s<>\"]+")


@dataclass(frozen=True)
class Mail:
    """A mail as it came; `recipients` are those of the envelope."""

    id: int
    received_at: str
    sender: str
    recipients: list[str]
    subject: str
    text: str


class Box:
    """All mails, whoever they are for; aiosmtpd's handler."""

    def __init__(self) -> None:
        self.mails: deque[Mail] = deque(maxlen=KEPT)
        self._numbers = itertools.count(1)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """Take a mail."""
        message = message_from_bytes(envelope.content, _class=EmailMessage, policy=email_policy)
        body = message.get_body(("plain", "html"))
        self.mails.append(
            Mail(
                id=next(self._numbers),
                received_at=datetime.now(UTC).isoformat(timespec="seconds"),
                sender=envelope.mail_from or "",
                recipients=list(envelope.rcpt_tos),
                subject=str(message["Subject"] or ""),
                text=body.get_content() if body is not None else "",
            )
        )
        return "250 OK"


BOX: web.AppKey[Box] = web.AppKey("box", Box)
SMTP_PORT: web.AppKey[int] = web.AppKey("smtp_port", int)


def create_app(smtp_host: str, smtp_port: int) -> web.Application:
    """The page and, with it, the mail server; port 0 takes a free one, which is then `app[SMTP_PORT]`."""
    app = web.Application()
    app[BOX] = Box()
    app.router.add_get("/", _page)
    app.router.add_get("/mails", _list)
    app.router.add_delete("/mails", _forget)
    app.router.add_get("/livez", _live)

    async def receive(app: web.Application) -> AsyncIterator[None]:
        async with receiving(app[BOX], smtp_host, smtp_port) as port:
            app[SMTP_PORT] = port
            yield

    app.cleanup_ctx.append(receive)
    return app


@asynccontextmanager
async def receiving(handler: Any, host: str, port: int) -> AsyncIterator[int]:
    """A mail server for as long as the block lasts; the port that it took. `handler` is as aiosmtpd wants it."""
    loop = asyncio.get_running_loop()
    connections: list[SMTP] = []

    def accept() -> SMTP:
        connections[:] = [known for known in connections if known.transport is not None]
        connections.append(
            SMTP(
                handler,
                hostname="localhost",
                ident="Lectern's mail catcher",
                enable_SMTPUTF8=True,
                data_size_limit=LARGEST_BYTES,
                loop=loop,
            )
        )
        return connections[-1]

    server = await loop.create_server(accept, host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in connections:
            if connection.transport is not None:
                connection.transport.close()
        await asyncio.sleep(0)


async def _page(request: web.Request) -> web.Response:
    mails = "".join(_article(mail) for mail in reversed(request.app[BOX].mails)) or "<p>None yet.</p>"
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'", "Cache-Control": "no-store"}
    return web.Response(text=PAGE.format(mails=mails), content_type="text/html", headers=headers)


def _article(mail: Mail) -> str:
    escaped = html.escape(mail.text)
    linked = LINK.sub(lambda found: f'<a href="{found[0]}">{found[0]}</a>', escaped)
    to = html.escape(", ".join(mail.recipients))
    return ARTICLE.format(subject=html.escape(mail.subject), to=to, at=html.escape(mail.received_at), text=linked)


async def _list(request: web.Request) -> web.Response:
    return web.json_response([asdict(mail) for mail in reversed(request.app[BOX].mails)])


async def _forget(request: web.Request) -> web.Response:
    request.app[BOX].mails.clear()
    return web.Response(status=204)


async def _live(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")
