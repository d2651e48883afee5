"""Mails, by SMTP. Sending may take seconds and fail: it is done in jobs, never while somebody waits for an answer."""

from collections.abc import Iterable
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import make_msgid
from urllib.parse import urlsplit

import aiosmtplib

from server.config import Config
from server.domain.accounts import check_email
from server.services.outside import ServiceAway, ServiceNotConfigured, ServiceRefused, ServiceSlow

SUBMISSION_TLS_PORT = 465


def mail_configured(config: Config) -> bool:
    """Whether there is a mail server."""
    return bool(config.smtp.host)


def page_address(config: Config, fragment: str) -> str:
    """The address of a page of ours for a mail. `fragment` never reaches a server, so tokens in it are in no log.

    Only from the configuration: the `Host` of a request is whatever a stranger says, and would send them the token.
    """
    public = config.server.public_url.rstrip("/")
    if public and "://" not in public:
        public = f"https://{public}"
    if not public:
        host = config.server.host
        host = "localhost" if host in ("", "0.0.0.0", "::", "127.0.0.1", "::1") else host
        public = f"http://{host}:{config.server.port}"
    return f"{public}/#{fragment}"


class Mailer:
    """Sends mails by the server of `smtp`."""

    def __init__(self, config: Config) -> None:
        self._settings = config.smtp
        self._host = urlsplit(page_address(config, "")).hostname or "localhost"

    async def send(self, to: str, subject: str, text: str) -> None:
        """Hand one mail to the server. Raises ServiceNotConfigured, ServiceAway, ServiceSlow, ServiceRefused.

        After ServiceAway or ServiceSlow it may have been sent or not; ServiceRefused is for good.
        """
        settings = self._settings
        if not settings.host:
            raise ServiceNotConfigured("smtp.host is empty")
        message = self._message(to, subject, text)
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


def _judged(codes: Iterable[int]) -> type[ServiceAway] | type[ServiceRefused]:
    """5xx is for good, 4xx for now (RFC 5321, 4.2.1)."""
    return ServiceRefused if all(code >= 500 for code in codes) else ServiceAway
