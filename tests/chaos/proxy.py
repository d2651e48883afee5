"""Between a server and what it is connected to: passes bytes on until it is told to do harm.

`Proxy` knows no protocol: it cuts connections, or leaves them open and dead. `PostgresProxy` cuts between a commit and
its answer, or holds a statement back, `RedisProxy` lets one write fail while the next one succeeds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Self

CHUNK = 65536

See = Callable[[bytes], bytes]


class Link:
    """One connection through a proxy. `upward` and `downward` see what passes and answer what goes on."""

    def __init__(self, upper: asyncio.StreamWriter, lower: asyncio.StreamWriter) -> None:
        self.upper = upper  # towards the server behind the proxy
        self.lower = lower  # towards who connected
        self.alive = asyncio.Event()  # not set: half open, nothing passes and nobody is told
        self.alive.set()

    def upward(self, data: bytes) -> bytes:
        """What is passed on of what the client said."""
        return data

    def downward(self, data: bytes) -> bytes:
        """What is passed on of what the server answered."""
        return data

    def cut(self) -> None:
        """Tear both ends down."""
        for end in (self.upper, self.lower):
            if end.transport is not None:
                end.transport.abort()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, see: See) -> None:
        """Pass on what comes until either end is gone."""
        try:
            while data := await reader.read(CHUNK):
                await self.alive.wait()
                if passed := see(data):
                    writer.write(passed)
                    await writer.drain()
        except (ConnectionError, OSError):
            pass
        finally:
            if self.alive.is_set():
                self.hang_up(writer)

    def hang_up(self, writer: asyncio.StreamWriter) -> None:
        """The other end is gone."""
        writer.close()


class Proxy:
    """Listens on a Unix socket (a path) or on a free port of 127.0.0.1 (None), and passes on to `target`, which is a
    Unix socket or a port. Use it with `async with`."""

    link: type[Link] = Link

    def __init__(self, target: Path | int, listen: Path | None = None) -> None:
        self.target = target
        self.listen = listen
        self.links: set[Link] = set()
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        if self.listen is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        else:
            self._server = await asyncio.start_unix_server(self._accept, self.listen)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it listens, when it does so on a port."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def cut(self) -> None:
        """Tear every connection down, as a network that breaks."""
        for link in list(self.links):
            link.alive.set()
            link.cut()

    def freeze(self) -> None:
        """Leave the connections that there are open and dead; new ones pass."""
        for link in self.links:
            link.alive.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the end, which asyncio's streams would complain of
        finally:
            self._pumps.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self.target, Path):
                behind, upper = await asyncio.open_unix_connection(self.target)
            else:
                behind, upper = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        link = self.link(upper, writer)
        self._introduce(link)
        self.links.add(link)
        try:
            await asyncio.gather(link.pump(reader, upper, link.upward), link.pump(behind, writer, link.downward))
        finally:
            self.links.discard(link)
            link.cut()

    def _introduce(self, link: Link) -> None:
        """Tell a new link what it should know."""


# Postgres ------------------------------------------------------------------------------------------------------------


class PostgresLink(Link):
    """Reads along: which statements are prepared under which name, and when one of interest is carried out."""

    def __init__(self, upper: asyncio.StreamWriter, lower: asyncio.StreamWriter) -> None:
        super().__init__(upper, lower)
        self.proxy: PostgresProxy
        self._said, self._answered = bytearray(), bytearray()
        self._started = False
        self._names: set[bytes] = set()
        self._doomed = False
        self._held: bytearray | None = None
        self._let_go = self._gone = False
        self.answered = asyncio.Event()  # what was held back and let go

    def upward(self, data: bytes) -> bytes:
        self._said += data
        for kind, body in self._messages():
            if kind == b"P":  # Parse: the statement's name, its text
                name, text, *_ = body.split(b"\0", 2)
                if self.proxy.marker in text:
                    self._names.add(name)
            elif kind == b"B":  # Bind: the portal, the statement's name
                _, name, *_ = body.split(b"\0", 2)
                self._doom(name in self._names)
                self._hold(name in self._names, body)
            elif kind == b"Q":  # a simple query: asyncpg's COMMIT
                self._doom(self.proxy.commits and body.startswith(b"COMMIT"))
        if self._held is None:
            return data
        self._held += data
        return b""

    def hang_up(self, writer: asyncio.StreamWriter) -> None:
        if writer is self.upper and (self._held is not None or self._let_go):
            self._gone = True  # until what was held back is answered
        else:
            super().hang_up(writer)

    def let_go(self) -> None:
        """Pass on what is held back, even if who said it is gone."""
        assert self._held is not None
        self.upper.write(self._held)
        self._held, self._let_go = None, True

    def downward(self, data: bytes) -> bytes:
        if self._let_go:
            self._answered += data
            if any(kind == b"Z" for kind, _ in _framed(self._answered)):
                self._let_go = False
                self.answered.set()
                if self._gone:
                    self.upper.close()
        if not self._doomed:
            return data
        # Carried out once ReadyForQuery, the last message of an answer, has come; nobody is told.
        self._answered += data
        if any(kind == b"Z" for kind, _ in _framed(self._answered)):
            self.proxy.cuts += 1
            self.cut()
        return b""

    def _doom(self, matches: bool) -> None:
        if matches and self.proxy.to_cut > 0:
            self.proxy.to_cut -= 1
            self._doomed = True

    def _hold(self, matches: bool, body: bytes) -> None:
        if matches and self.proxy.to_hold is not None and self.proxy.to_hold in body:
            self.proxy.to_hold, self.proxy.held = None, self
            self._held = bytearray()

    def _messages(self) -> list[tuple[bytes, bytes]]:
        if not self._started:  # the first message has no kind
            if len(self._said) < 4 or len(self._said) < (size := int.from_bytes(self._said[:4], "big")):
                return []
            del self._said[:size]
            self._started = True
        return _framed(self._said)


class PostgresProxy(Proxy):
    """`to_cut` of the next commits, or statements whose text has `marker` in it, get through and are not answered;
    `cuts` counts those. The next such statement with `to_hold` among its parameters is held back until `let_go`."""

    link = PostgresLink

    def __init__(self, target: Path | int, listen: Path | None = None, *, marker: bytes) -> None:
        super().__init__(target, listen)
        self.marker = marker
        self.commits = True  # cut at those too, whatever they commit
        self.to_cut = 0
        self.cuts = 0
        self.to_hold: bytes | None = None
        self.held: PostgresLink | None = None

    async def let_go(self) -> None:
        """Pass on what is held back, and wait until Postgres has done it."""
        assert self.held is not None
        link, self.held = self.held, None
        link.let_go()
        await link.answered.wait()

    def _introduce(self, link: Link) -> None:
        assert isinstance(link, PostgresLink)
        link.proxy = self


def _framed(buffer: bytearray) -> list[tuple[bytes, bytes]]:
    """Takes the whole messages of Postgres' protocol out of a buffer: kind and body of each."""
    found = []
    while len(buffer) >= 5 and len(buffer) > (size := int.from_bytes(buffer[1:5], "big")):
        found.append((bytes(buffer[:1]), bytes(buffer[5 : size + 1])))
        del buffer[: size + 1]
    return found


# Redis ---------------------------------------------------------------------------------------------------------------

FAILURE = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"


class RedisLink(Link):
    """Keeps commands and answers in step, so that one can be withheld and answered with a failure."""

    def __init__(self, upper: asyncio.StreamWriter, lower: asyncio.StreamWriter) -> None:
        super().__init__(upper, lower)
        self.proxy: RedisProxy
        self._said, self._answered = bytearray(), bytearray()
        self._due: deque[bool] = deque()  # one for each command in order: whether Redis will answer it

    def upward(self, data: bytes) -> bytes:
        self._said += data
        passed = bytearray()
        while (command := command_of(self._said)) is not None:
            words, size = command
            fails = self.proxy.refuses(words)
            self._due.append(not fails)
            if not fails:
                passed += self._said[:size]
            del self._said[:size]
        if not any(self._due):
            self.lower.write(self._failures())  # nothing real is on its way that these would have to wait for
        return bytes(passed)

    def downward(self, data: bytes) -> bytes:
        self._answered += data
        passed = bytearray()
        while (size := end_of_answer(self._answered)) is not None:
            passed += self._failures()
            if self._due:
                self._due.popleft()
            passed += self._answered[:size]
            del self._answered[:size]
        return bytes(passed + self._failures())

    def _failures(self) -> bytes:
        failures = b""
        while self._due and not self._due[0]:
            self._due.popleft()
            failures += FAILURE
        return failures


class RedisProxy(Proxy):
    """`to_refuse` of the next writes to streams whose key begins with `prefix` fail as with a full Redis, and never
    reach it; `refused` counts them. `every`: only each so-manieth, so that its neighbours succeed."""

    link = RedisLink

    def __init__(self, target: Path | int, listen: Path | None = None, *, prefix: bytes) -> None:
        super().__init__(target, listen)
        self.prefix = prefix
        self.to_refuse = 0
        self.every = 1
        self.refused = 0
        self._seen = 0

    def refuses(self, words: list[bytes]) -> bool:
        """Whether this command is to fail."""
        writes = words[0].upper() in (b"XADD", b"EVAL", b"EVALSHA", b"FCALL")
        if not writes or self.to_refuse <= 0 or not any(word.startswith(self.prefix) for word in words[1:4]):
            return False
        self._seen += 1
        if self._seen % self.every:
            return False
        self.to_refuse -= 1
        self.refused += 1
        return True

    def _introduce(self, link: Link) -> None:
        assert isinstance(link, RedisLink)
        link.proxy = self


def command_of(buffer: bytearray) -> tuple[list[bytes], int] | None:
    """The first command of a buffer, an array of bulk strings, and its size in bytes; None while it is not whole."""
    end = buffer.find(b"\r\n")
    if end < 0:
        return None
    count, at, words = int(buffer[1:end]), end + 2, []
    for _ in range(count):
        end = buffer.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(buffer[at + 1 : end])
        at = end + 2 + size + 2
        if len(buffer) < at:
            return None
        words.append(bytes(buffer[end + 2 : at - 2]))
    return words, at


def end_of_answer(buffer: bytearray, at: int = 0) -> int | None:
    """Where the answer that begins at `at` ends (RESP 2 and 3); None while it is not whole."""
    end = buffer.find(b"\r\n", at)
    if end < 0:
        return None
    kind, head, at = buffer[at : at + 1], bytes(buffer[at + 1 : end]), end + 2
    if kind in b"$=!":
        at += int(head) + 2 if int(head) >= 0 else 0
        return at if at <= len(buffer) else None
    if kind in b"*~>%|":
        parts = max(0, int(head)) * (2 if kind in b"%|" else 1) + (1 if kind == b"|" else 0)
        for _ in range(parts):
            inner = end_of_answer(buffer, at)
            if inner is None:
                return None
            at = inner
    return at


def unix_socket_of(url: str) -> Path:
    """The path in a `unix://` URL."""
    return Path(url.removeprefix("unix://"))
