"""A mail server of the test's own: the mail catcher, in this process."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from standins.mail_catcher.app import BOX, SMTP_PORT, Mail, create_app
from tests.support.local_server import LocalServer

LINK = re.compile(r"https?://\S+")


class MailBox:
    """What was sent."""

    def __init__(self, server: LocalServer) -> None:
        self.url = str(server.make_url(""))
        self._app = server.app
        self.port = self._app[SMTP_PORT]

    @property
    def settings(self) -> dict[str, Any]:
        """The section `smtp` that leads here."""
        return {"host": "127.0.0.1", "port": self.port}

    @property
    def mails(self) -> list[Mail]:
        """All so far, oldest first."""
        return list(self._app[BOX].mails)

    async def get(self, subject: str, to: str) -> Mail:
        """The next mail of this subject to this address, which is taken out. Fails after thirty seconds."""
        async with asyncio.timeout(30):
            while True:
                for mail in self.mails:
                    if subject in mail.subject and mail.recipients == [to]:
                        self._app[BOX].mails.remove(mail)
                        return mail
                await asyncio.sleep(0.02)


@asynccontextmanager
async def catching() -> AsyncIterator[MailBox]:
    """A mail catcher that runs."""
    async with LocalServer(create_app("127.0.0.1", 0)) as server:
        yield MailBox(server)


def token_of(mail: Mail) -> str:
    """The token in the mail's link."""
    return LINK.findall(mail.text)[0].rpartition("/")[2]
