"""Mails, by SMTP. Sending may take seconds and fail: it is done in jobs, never while somebody waits for an answer."""

from collections.abc import Iterable, Mapping
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import make_msgid
from urllib.parse import urlsplit

import aiosmtplib

from server.config import Config
from server.domain.accounts import check_email
from server.services.outside import (
    Service,
    ServiceAway,
    ServiceNotConfigured,
    ServicePutsOff,
    ServiceRefused,
    ServiceSlow,
)

SUBMISSION_TLS_PORT = 465
# `smtp.timeout_s` is for every answer of the server; a mail takes several.
_WHOLE_MAIL = 3


def mail_configured(config: Config) -> bool:
    """Whether there is a mail server."""
    return bool(config.smtp.host)


def page_address(config: Config, fragment: str) -> str:
    """The address of a page of ours for a mail. `fragment` never reaches a server, so tokens in it are in no log.

    Only from the configuration: the `Host` of a request is whatever a stranger says, and would send them the token.
    """
    return f"{site_address(config)}/#{fragment}"


def site_address(config: Config) -> str:
    """Where the server is for those who read its mails, without a slash at the end."""
    public = config.server.public_url.rstrip("/")
    if not public:
        host = config.server.host
        host = "localhost" if host in ("", "0.0.0.0", "::", "127.0.0.1", "::1") else host
        public = f"http://{host}:{config.server.port}"
    return public


class Mailer:
    """Sends mails by the server of `smtp`."""

    def __init__(self, config: Config) -> None:
        self._settings = config.smtp
        self._service = Service("mail", config.breaker)
        self._host = urlsplit(page_address(config, "")).hostname or "localhost"

    async def send(self, to: str, subject: str, text: str, headers: Mapping[str, str] | None = None) -> None:
        """Hand one mail to the server, with further headers.

        Raises ServiceNotConfigured, ServiceAway, ServiceSlow, ServiceRefused. After ServiceAway it may have been sent
        or not; ServiceRefused is for good.
        """
        settings = self._settings
        if not settings.host:
            raise ServiceNotConfigured("smtp.host is empty")
        message = self._message(to, subject, text)
        for name, value in (headers or {}).items():
            message[name] = value
        await self._service.call("send", lambda: self._deliver(to, message), timeout_s=_WHOLE_MAIL * settings.timeout_s)

    async def _deliver(self, to: str, message: EmailMessage) -> None:
        settings = self._settings
        implicit_tls = settings.tls == "tls" or (settings.tls == "auto" and settings.port == SUBMISSION_TLS_PORT)
        try:
            await aiosmtplib.send(
                message,
                recipients=[to],
                hostname=settings.host,
                port=settings.port,
                username=settings.username or None,
                password=settings.password or None,
                local_hostname=self._host,
                timeout=settings.timeout_s,
                use_tls=implicit_tls,
                start_tls=False if implicit_tls else self._start_tls(),
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise _judged(recipient.code for recipient in error.recipients)(str(error)) from error
        except (aiosmtplib.SMTPSenderRefused, aiosmtplib.SMTPDataError) as error:
            raise _judged([error.code])(str(error)) from error
        except aiosmtplib.SMTPNotSupported as error:
            raise ServiceRefused(str(error)) from error
        except aiosmtplib.SMTPTimeoutError as error:
            raise ServiceSlow(str(error)) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            # Also what only the operator can mend (a wrong password, a certificate): it is tried until it is dead.
            raise ServiceAway(str(error)) from error

    def _start_tls(self) -> bool | None:
        """Whether to begin TLS: where it is offered, but a password goes over nothing else."""
        match self._settings.tls:
            case "starttls":
                return True
            case "none":
                return False
            case _:
                return True if self._settings.username else None

    def _message(self, to: str, subject: str, text: str) -> EmailMessage:
        message = EmailMessage()
        try:
            name, _, domain = check_email(to).rpartition("@")
            message["To"] = Address(username=name, domain=domain)
            message["From"] = self._settings.from_ or f"Lectern <lectern@{self._host}>"
        except (ValueError, IndexError) as error:
            raise ServiceRefused(f"no address: {error}") from error
        message["Subject"] = subject
        message["Message-ID"] = make_msgid(domain=self._host)
        # Nobody's holiday answers this.
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text)
        return message


def _judged(codes: Iterable[int]) -> type[ServicePutsOff] | type[ServiceRefused]:
    """5xx is for good, 4xx for now (RFC 5321, 4.2.1); the server works in either case."""
    return ServiceRefused if all(code >= 500 for code in codes) else ServicePutsOff
