"""What a player may rely on: sessions, their socket, and frames by REST."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest
from aiohttp import WSMsgType, WSServerHandshakeError
from aiohttp.hdrs import SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION
from multidict import CIMultiDict

from handlers import sessions
from server import metrics
from server.data.db import PostgresAway
from server.http.keys import DATABASE, TOKENS
from tests.support.app import AppClient, serving, settings
from tests.support.lectures import LADDER, Lecture, frame, make_learner, make_lecture

FAST = {"checkpoint_s": 0.1, "sweep_s": 0.3, "reaper_s": 0.2, "rest_idle_s": 0.3}
Sql = Any


@dataclass
class Player:
    """A learner with a client, and what it takes to open sockets."""

    client: AppClient
    lecture: Lecture
    user_id: UUID

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def token(self) -> str:
        assert self.client.app is not None
        return self.client.app[TOKENS].issue_access(self.user_id, "student", 1)[0]

    async def new_session(self, **body: Any) -> dict[str, Any]:
        answer = await self.client.post(
            f"/api/videos/{self.lecture.video_id}/sessions", json=body, headers=self.headers
        )
        assert answer.status == 201, await answer.text()
        return await answer.json()

    async def open(self, session: dict[str, Any], **options: Any) -> "Wire":
        options.setdefault("protocols", ("lectern.v1", f"bearer.{session['token']}"))
        socket = await self.client.ws_connect(f"/api/videos/ws/{session['session_id']}", **options)
        return Wire(socket, await asyncio.wait_for(socket.receive_json(), 30))

    async def shown(self, session: dict[str, Any]) -> dict[str, Any]:
        answer = await self.client.get(f"/api/videos/sessions/{session['session_id']}", headers=self.headers)
        assert answer.status == 200, await answer.text()
        return await answer.json()

    async def eventually(self, session: dict[str, Any], holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while not holds(shown := await self.shown(session)):  # noqa: ASYNC110  # nothing tells us
                await asyncio.sleep(0.02)
        return shown

    async def send_by_rest(self, session: dict[str, Any], frames: Any, **options: Any) -> tuple[int, dict[str, Any]]:
        options.setdefault("headers", {"Authorization": f"Bearer {session['token']}"})
        answer = await self.client.post(f"/api/videos/sessions/{session['session_id']}/network", json=frames, **options)
        return answer.status, await answer.json()


@dataclass
class Wire:
    """An open session socket."""

    socket: aiohttp.ClientWebSocketResponse[bool]
    hello: dict[str, Any]

    async def send(self, *frames: dict[str, Any]) -> None:
        for each in frames:
            await self.socket.send_str(json.dumps(each))

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first message for which this holds."""
        async with asyncio.timeout(30):
            while True:
                message = await self.socket.receive()
                assert message.type is WSMsgType.TEXT, f"closed with {self.socket.close_code}"
                if holds(value := json.loads(message.data)):
                    return value

    async def acked(self, seq: int) -> dict[str, Any]:
        return await self.until(lambda m: m["type"] == "ack" and m["seq"] >= seq)

    async def saved(self, seq: int) -> dict[str, Any]:
        return await self.until(lambda m: m["type"] == "ack" and m["saved"] >= seq)

    async def close_code(self) -> int | None:
        async with asyncio.timeout(30):
            while (await self.socket.receive()).type is WSMsgType.TEXT:
                pass
        return self.socket.close_code


@pytest.fixture
async def player(postgres_dsn: str, redis_url: str) -> AsyncIterator[Player]:
    lecture = await make_lecture(postgres_dsn)
    user_id = await make_learner(postgres_dsn, lecture.course_id)
    async with serving(settings(postgres_dsn, redis_url, sessions=FAST)) as client:
        yield Player(client, lecture, user_id)


async def test_a_video_that_is_deleted_while_a_session_of_it_is_made_is_not_there(
    player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose_it(call: Any) -> dict[str, Any]:
        await call.app[DATABASE].execute("DELETE FROM videos WHERE id = $1", player.lecture.video_id)
        return {}

    monkeypatch.setattr(sessions, "_known_network", lose_it)
    path = f"/api/videos/{player.lecture.video_id}/sessions"
    answer = await player.client.post(path, json={}, headers=player.headers)
    assert (answer.status, (await answer.json())["code"]) == (404, "video_not_found")


async def test_a_session_tells_a_player_all_it_needs(player: Player) -> None:
    session = await player.new_session(viewport=[1280, 720])
    assert session["ladder"] == LADDER
    assert session["segment_s"] == 2
    assert session["resume_position"] == 0
    assert session["ws_url"].endswith(f"/api/videos/ws/{session['session_id']}")
    lowest = LADDER[0]["br"]
    assert session["decision"]["cmsd"] == {"mb": lowest, "etp": lowest}  # nothing was measured
    wire = await player.open(session)
    assert wire.hello["type"] == "hello"
    assert wire.hello["protocol"] == "lectern.v1"
    assert (wire.hello["epoch"], wire.hello["seq"], wire.hello["saved"]) == (1, 0, 0)
    assert wire.hello["decision"]["n"] == 1
    assert wire.hello["decision"]["cmsd"] == {"mb": lowest, "etp": lowest}
    assert wire.hello["limits"] == {
        "frame_bytes": 16_384, "rate": 10, "per_s": 1, "burst": 40, "interval_ms": 1000,
    }  # fmt: skip


async def test_who_came_by_tls_is_told_a_socket_by_tls(postgres_dsn: str, redis_url: str) -> None:
    lecture = await make_lecture(postgres_dsn)
    user_id = await make_learner(postgres_dsn, lecture.course_id)
    async with serving(settings(postgres_dsn, redis_url, server={"trusted_proxies": ["127.0.0.1/32"]})) as client:
        player = Player(client, lecture, user_id)
        for proto, scheme in (("https", "wss"), ("http", "ws")):
            proxied = player.headers | {"X-Forwarded-Proto": proto, "Host": "learn.example"}
            answer = await client.post(f"/api/videos/{lecture.video_id}/sessions", json={}, headers=proxied)
            session = await answer.json()
            assert session["ws_url"] == f"{scheme}://learn.example/api/videos/ws/{session['session_id']}"


async def test_frames_are_acknowledged_applied_and_saved(player: Player) -> None:
    session = await player.new_session()
    wire = await player.open(session)
    await wire.send(
        frame(1, 0.0, cmcd={"br": 800, "msd": 250, "sta": "p"}),
        frame(2, 1.0, cmcd={"br": 800, "bs": True, "bsd": 40}, segments=[{"br": 800, "bytes": 200_000, "ms": 900}]),
        frame(3, 2.5, cmcd={"br": [1600]}),
    )
    # What of it is saved by then depends on how they came.
    assert await wire.acked(3) | {"saved": 0} == {"type": "ack", "seq": 3, "saved": 0, "gaps": 0}
    assert (await wire.saved(3))["saved"] == 3
    shown = await player.shown(session)
    expected = {
        "status": "active", "epoch": 1, "last_seq": 3, "saved_seq": 3, "frames": 3, "segments": 1, "bytes": 200_000,
        "duplicates": 0, "gaps": 0, "position": 2.5, "watched_seconds": 2.5, "stalls": 1, "stall_ms": 40,
        "startup_ms": 250, "switches": 1,
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == expected


async def test_a_hole_is_counted_and_a_frame_had_before_changes_nothing(player: Player) -> None:
    session = await player.new_session()
    wire = await player.open(session)
    await wire.send(frame(1, 1.0), frame(4, 4.0), frame(4, 9.0), frame(2, 2.0))
    assert (await wire.acked(4))["gaps"] == 2
    # A duplicate is counted as it comes, and may be saved before the frames beside it are applied.
    shown = await player.eventually(session, lambda s: (s["duplicates"], s["frames"]) == (2, 2))
    assert (shown["gaps"], shown["position"]) == (2, 4.0)


async def test_a_reconnecting_player_is_told_what_is_there(player: Player) -> None:
    session = await player.new_session()
    first = await player.open(session)
    await first.send(frame(1, 10.0), frame(2, 11.0))
    await first.acked(2)
    first.socket._response.connection.transport.abort()  # the network goes, without a word
    second = await player.open(session)
    assert second.hello["epoch"] == 2
    assert second.hello["seq"] == 2
    assert second.hello["resume_position"] == 11.0


async def test_the_newest_socket_of_a_session_wins(player: Player) -> None:
    session = await player.new_session()
    first = await player.open(session)
    second = await player.open(session)
    assert await first.close_code() == 4409
    await second.send(frame(1, 1.0))
    await second.acked(1)


async def test_a_player_that_looks_late_still_reads_why_its_socket_was_closed(player: Player) -> None:
    session = await player.new_session()
    first = await player.open(session)
    second = await player.open(session)
    # Its close has long arrived; the server hangs up only after the player's own, or a while later.
    await second.send(frame(1, 1.0))
    await second.saved(1)
    with contextlib.suppress(ConnectionError):  # hung up by now, where the machine stood still
        await first.socket.send_str(json.dumps(frame(1, 1.0)))
    assert await first.close_code() == 4409


async def test_bye_ends_the_session(player: Player) -> None:
    session = await player.new_session()
    wire = await player.open(session)
    await wire.send(frame(1, 1.0), {"type": "bye"})
    assert await wire.close_code() == 1000
    shown = await player.eventually(session, lambda s: s["status"] == "ended")
    assert shown["last_seq"] == 1
    with pytest.raises(WSServerHandshakeError) as refused:
        await player.open(session)
    assert refused.value.status == 404
    status, problem = await player.send_by_rest(session, frame(2, 2.0))
    assert (status, problem["code"]) == (409, "session_ended")


async def test_a_collapse_is_decided_upon_within_two_frames(player: Player) -> None:
    session = await player.new_session()
    wire = await player.open(session)
    fast = {"segments": [{"br": 3200, "bytes": 800_000, "ms": 400}], "cmcd": {"bl": 15000, "pr": 1}}
    await wire.send(*(frame(n, float(n), **fast) for n in range(1, 6)))
    up = await wire.until(lambda m: m["type"] == "decision" and m["rung"] == 3)
    assert up["cmsd"]["mb"] == 3200
    assert up["ttl_ms"] == 10_000
    slow = {"segments": [{"br": 3200, "bytes": 100_000, "ms": 900}], "cmcd": {"bl": 9000, "pr": 1}}
    await wire.send(frame(6, 6.0, **slow))
    down = await wire.until(lambda m: m["type"] == "decision" and m["rung"] < 2)
    assert down["n"] > up["n"]
    assert isinstance(down["reason"], str)


@pytest.mark.parametrize(
    "bad",
    [
        "[]", "nonsense", '{"type": "telemetry", "position": 1}', '{"type": "song"}', '{"seq": 1, "position": 1}',
        '{"type": "telemetry", "seq": 0, "position": 1}',
        '{"type": "telemetry", "seq": 9007199254740992, "position": 1}',
        '{"type": "telemetry", "seq": 1, "position": NaN}', '{"type": "telemetry", "seq": 1, "position": -1}',
        '{"type": "telemetry", "seq": 1, "position": 1000001}', '{"type": "telemetry", "seq": 1}',
        '{"type": "telemetry", "seq": 1.5, "position": 1}', '{"type": "telemetry", "seq": 100001, "position": 1}',
        '{"type": "telemetry", "seq": 1, "position": 1, "cmcd": []}',
        '{"type": "telemetry", "seq": 1, "position": 1, "cmcd": {"bl": "long"}}',
        '{"type": "telemetry", "seq": 1, "position": 1, "cmcd": {"bl": -1}}',
        '{"type": "telemetry", "seq": 1, "position": 1, "segments": {}}',
    ],
)  # fmt: skip
async def test_an_offence_is_told_twice_and_closes_the_third_time(player: Player, bad: str) -> None:
    wire = await player.open(await player.new_session())
    for _ in range(2):
        await wire.socket.send_str(bad)
        error = await wire.until(lambda m: m["type"] == "error")
        assert error["code"] == "bad_frame"
        assert error["retryable"] is False
    await wire.socket.send_str(bad)
    assert await wire.close_code() == 4400


async def test_a_frame_nested_deeper_than_this_python_reads_is_an_offence_like_any_other(player: Player) -> None:
    wire = await player.open(await player.new_session())
    await wire.socket.send_str('{"type": "telemetry", "seq": 1, "position": 1, "x": ' + "[" * 4000 + "]" * 4000 + "}")
    told = await wire.until(lambda m: m["type"] in {"ack", "error"})
    # From 3.13 on as deep as a frame can be: there it is an unknown member, which is ignored.
    taken = sys.version_info >= (3, 13)
    assert (told["type"], told.get("code")) == (("ack", None) if taken else ("error", "bad_frame"))
    await wire.send(frame(2, 2.0))
    await wire.acked(2)


async def test_unknown_members_and_keys_are_ignored(player: Player) -> None:
    wire = await player.open(await player.new_session())
    await wire.send(frame(1, 1.0, mood="good", cmcd={"com.example-x": 1, "cid": "a", "bl": [5800], "nor": {"a": 1}}))
    await wire.acked(1)


async def send_bare(socket: Any, sent: bytes) -> None:
    """These very bytes."""
    socket._response.connection.transport.write(sent)


@pytest.mark.parametrize(
    ("send", "code", "reason"),
    [
        (lambda s: s.send_bytes(b"{}"), 1003, "not_text"),
        (lambda s: s.send_str('{"x":"' + "y" * 16_400 + '"}'), 1009, "too_big"),
        (lambda s: s._writer.send_frame(b"\xff\xfe", WSMsgType.TEXT), 1007, "not_utf8"),
        (lambda s: s._writer.send_frame(b"x", 3), 1002, "protocol_error"),
        (lambda s: send_bare(s, b"\x81\x02{}"), 1002, "protocol_error"),  # not masked
        (lambda s: send_bare(s, b"\x8a\x80mask\x81\x02{}"), 1002, "protocol_error"),  # nor a later one
    ],
)
async def test_what_is_no_text_frame_closes_with_the_protocols_code(
    player: Player, send: Callable[[Any], Awaitable[None]], code: int, reason: str
) -> None:
    wire = await player.open(await player.new_session())
    await send(wire.socket)
    async with asyncio.timeout(30):
        while (message := await wire.socket.receive()).type is WSMsgType.TEXT:
            pass
    assert (message.data, message.extra, wire.socket.close_code) == (code, reason, code)


async def test_a_frame_may_have_16384_bytes_and_no_more(player: Player) -> None:
    wire = await player.open(await player.new_session())
    whole = json.dumps(frame(1, 1.0, pad=""))
    await wire.socket.send_str(whole.replace('"pad": ""', '"pad": "' + "x" * (16_384 - len(whole)) + '"'))
    await wire.acked(1)
    await wire.socket.send_str(whole.replace('"pad": ""', '"pad": "' + "x" * (16_385 - len(whole)) + '"'))
    assert await wire.close_code() == 1009


async def test_too_many_frames_close_with_4529_but_for_the_first_512(player: Player) -> None:
    wire = await player.open(await player.new_session())
    await wire.send(*(frame(n, 1.0) for n in range(1, 513)))
    await wire.acked(512)
    with contextlib.suppress(ConnectionError):  # closed while we still speak
        await wire.send(*(frame(n, 1.0) for n in range(513, 1500)))
    assert await wire.close_code() == 4529


@pytest.mark.parametrize("kind", [WSMsgType.PING, WSMsgType.PONG])
async def test_control_frames_count_as_frames(player: Player, kind: WSMsgType) -> None:
    wire = await player.open(await player.new_session())
    with contextlib.suppress(ConnectionError):
        for _ in range(1500):
            await wire.socket._writer.send_frame(b"", kind)
    assert await wire.close_code() == 4529


async def test_a_player_that_comes_back_late_gets_new_credentials_before_its_old_ones_run_out(
    player: Player, sql: Sql
) -> None:
    session = await player.new_session()
    wire = await player.open(session)
    await wire.send(frame(1, 1.0))
    first = await wire.until(lambda m: m["type"] in ("token", "ack"))
    assert first["type"] == "ack", "those of a new session are good for long"
    await sql.execute("UPDATE video_sessions SET created_at = created_at - interval '50 minutes'")
    late = await player.open(session)
    renewed = await late.until(lambda m: m["type"] == "token")
    assert set(renewed) == {"type", "token", "playback", "expires_at"}
    assert (await player.open(session | {"token": renewed["token"]})).hello["type"] == "hello"


OPENING = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}


async def refusal(player: Player, session_id: object, query: str = "", **options: Any) -> int:
    with pytest.raises(WSServerHandshakeError) as refused:
        await player.client.ws_connect(f"/api/videos/ws/{session_id}{query}", **options)
    return refused.value.status


async def test_openings_that_are_not_right_are_refused_before_the_upgrade(player: Player) -> None:
    session = await player.new_session()
    other = await player.new_session()
    mine = session["session_id"]
    good = ("lectern.v1", f"bearer.{session['token']}")
    assert await refusal(player, mine, protocols=("lectern.v1",)) == 401
    assert await refusal(player, mine, protocols=("lectern.v1", "bearer.nonsense")) == 401
    assert await refusal(player, mine, protocols=("lectern.v1", f"bearer.{other['token']}")) == 401
    assert await refusal(player, mine, protocols=good[1:]) == 400
    assert await refusal(player, mine, f"?token={session['token']}", protocols=("lectern.v1",)) == 400
    assert await refusal(player, mine, protocols=good, headers={"Origin": "https://evil.example"}) == 403
    assert await refusal(player, uuid4(), protocols=("lectern.v1", f"bearer.{player.token}")) == 404
    plain = await player.client.get(f"/api/videos/ws/{mine}", headers=player.headers)
    other_version = {"Sec-WebSocket-Version": "25", "Sec-WebSocket-Protocol": ", ".join(good)}
    later = await player.client.get(f"/api/videos/ws/{mine}", headers=OPENING | other_version)
    for answer in (plain, later):
        assert (answer.status, (await answer.json())["code"]) == (426, "upgrade_required")
        assert (answer.headers["Upgrade"], answer.headers["Sec-WebSocket-Version"]) == ("websocket", "13")


async def test_protocols_offered_in_headers_of_their_own_are_one_list(player: Player) -> None:
    session = await player.new_session()
    offered = ((SEC_WEBSOCKET_PROTOCOL, protocol) for protocol in (f"bearer.{session['token']}", "lectern.v1"))
    opening = CIMultiDict([*OPENING.items(), (SEC_WEBSOCKET_VERSION, "13"), *offered])
    async with player.client.get(f"/api/videos/ws/{session['session_id']}", headers=opening) as answer:
        assert (answer.status, answer.headers.getall(SEC_WEBSOCKET_PROTOCOL)) == (101, ["lectern.v1"])
        answer.close()


async def test_an_access_token_opens_ones_own_session_and_nobody_elses(player: Player, postgres_dsn: str) -> None:
    session = await player.new_session()
    await player.open(session, protocols=("lectern.v1",), headers=player.headers)
    stranger = Player(player.client, player.lecture, await make_learner(postgres_dsn, name="stranger"))
    assert await refusal(stranger, session["session_id"], protocols=("lectern.v1",), headers=stranger.headers) == 404
    answer = await player.client.get(f"/api/videos/sessions/{session['session_id']}", headers=stranger.headers)
    assert answer.status == 404


async def test_only_who_may_watch_gets_a_session(player: Player, postgres_dsn: str) -> None:
    stranger = Player(player.client, player.lecture, await make_learner(postgres_dsn, name="stranger"))
    path = f"/api/videos/{player.lecture.video_id}/sessions"
    answer = await player.client.post(path, json={}, headers=stranger.headers)
    assert (answer.status, (await answer.json())["code"]) == (403, "not_entitled")
    assert (await player.client.post(path, json={})).status == 401
    draft = await make_lecture(postgres_dsn, status="draft")
    answer = await player.client.post(f"/api/videos/{draft.video_id}/sessions", json={}, headers=player.headers)
    assert answer.status == 404


async def test_more_than_three_live_sessions_need_a_takeover(player: Player) -> None:
    made = [await player.new_session() for _ in range(3)]
    wire = await player.open(made[0])
    answer = await player.client.post(
        f"/api/videos/{player.lecture.video_id}/sessions", json={}, headers=player.headers
    )
    problem = await answer.json()
    assert (answer.status, problem["code"], len(problem["sessions"])) == (409, "too_many_sessions", 3)
    assert all(each["seen_at"].endswith("Z") for each in problem["sessions"])
    await player.open(made[2])
    await player.new_session(takeover=True)
    statuses = [(await player.shown(session))["status"] for session in made]
    assert sorted(statuses) == ["active", "active", "ended"]
    assert statuses[1] == "ended"  # the one that was seen longest ago
    await wire.send(frame(1, 1.0))
    await wire.acked(1)


async def test_never_more_than_three_live_sessions_whichever_process_is_asked(
    player: Player, postgres_dsn: str, sql: Sql, redis_url: str
) -> None:
    async with serving(settings(postgres_dsn, redis_url, sessions=FAST)) as other:
        path = f"/api/videos/{player.lecture.video_id}/sessions"

        async def ask(client: AppClient, **body: Any) -> int:
            return (await client.post(path, json=body, headers=player.headers)).status

        clients = [player.client, other] * 5
        answers = await asyncio.gather(*(ask(client) for client in clients))
        assert sorted(answers) == [201] * 3 + [409] * 7
        assert await asyncio.gather(*(ask(client, takeover=True) for client in clients)) == [201] * 10
        rows = await sql.fetch("SELECT status, count(*) FROM video_sessions GROUP BY status ORDER BY status")
        assert [tuple(row) for row in rows] == [("active", 3), ("ended", 10)]


@contextlib.asynccontextmanager
async def watched_elsewhere(
    player: Player, postgres_dsn: str, redis_url: str
) -> AsyncIterator[tuple[dict[str, Any], "Wire"]]:
    """A session of which another process has acknowledged five frames and saved none, with its socket; the learner has
    as many sessions as one may have."""
    late = FAST | {"checkpoint_s": 30.0}
    async with serving(settings(postgres_dsn, redis_url, sessions=late)) as other:
        elsewhere = Player(other, player.lecture, player.user_id)
        session = await elsewhere.new_session()
        wire = await elsewhere.open(session)
        await wire.send(*(frame(n, float(n)) for n in range(1, 6)))
        await wire.acked(5)
        for _ in range(2):
            await player.new_session()
        yield session, wire


async def test_what_was_acknowledged_before_a_takeover_counts(
    player: Player, postgres_dsn: str, redis_url: str
) -> None:
    async with watched_elsewhere(player, postgres_dsn, redis_url) as (session, wire):
        await player.new_session(takeover=True)
        shown = await player.shown(session)
        assert (shown["status"], shown["frames"], shown["watched_seconds"]) == ("ended", 5, 4.0)
        assert await wire.close_code() == 4409


async def test_what_was_acknowledged_before_a_takeover_counts_where_nobody_heard_that_it_was_done(
    player: Player, postgres_dsn: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = player.client.app[DATABASE]
    committed = database.transaction

    @contextlib.asynccontextmanager
    async def unanswered() -> AsyncIterator[Any]:
        async with committed() as tx:
            yield tx
        raise PostgresAway("no answer to COMMIT")

    async with watched_elsewhere(player, postgres_dsn, redis_url) as (session, wire):
        with monkeypatch.context() as cut:
            cut.setattr(database, "transaction", unanswered)
            path = f"/api/videos/{player.lecture.video_id}/sessions"
            answer = await player.client.post(path, json={"takeover": True}, headers=player.headers)
            assert (answer.status, "Retry-After" in answer.headers) == (503, True)
        shown = await player.eventually(session, lambda s: s["frames"] == 5)
        assert shown["status"] == "ended"
        assert await wire.close_code() == 4409


async def test_frames_by_rest_are_counted_once_and_answered_with_a_decision(player: Player) -> None:
    session = await player.new_session()
    status, answer = await player.send_by_rest(session, [frame(1, 1.0), frame(2, 2.0), frame(2, 2.0)])
    assert (status, answer["accepted"], answer["duplicates"]) == (202, 2, 1)
    assert answer["decision"]["cmsd"]["mb"] > 0
    status, answer = await player.send_by_rest(session, {"position": 3.0, "cmcd": {"sta": "p"}})
    assert (status, answer["accepted"]) == (202, 1)
    shown = await player.eventually(session, lambda s: s["frames"] == 3)
    assert (shown["position"], shown["watched_seconds"], shown["last_seq"]) == (3.0, 2.0, 2)


async def test_a_beacon_may_carry_its_token_in_the_query(player: Player) -> None:
    session = await player.new_session()
    answer = await player.client.post(
        f"/api/videos/sessions/{session['session_id']}/network?token={session['token']}",
        data=json.dumps({"position": 7.5}),
        headers={"Content-Type": "text/plain"},
    )
    assert answer.status == 202
    await player.eventually(session, lambda s: s["position"] == 7.5)


@pytest.mark.parametrize("content_type", ["application/xml", "application/json; x*=idna''a"])
async def test_frames_of_what_is_no_type_of_theirs_are_415(player: Player, content_type: str) -> None:
    session = await player.new_session()
    answer = await player.client.post(
        f"/api/videos/sessions/{session['session_id']}/network?token={session['token']}",
        data=json.dumps({"position": 7.5}),
        headers={"Content-Type": content_type},
    )
    assert answer.status == 415
    assert (await answer.json())["code"] == "unsupported_media_type"


async def test_a_beacon_reaches_the_session_of_a_live_socket_and_does_not_kick_it(player: Player) -> None:
    session = await player.new_session()
    wire = await player.open(session)
    await wire.send(frame(1, 1.0))
    await wire.acked(1)
    await player.send_by_rest(session, {"position": 2.0})
    await player.eventually(session, lambda s: s["frames"] == 2)
    await wire.send(frame(2, 3.0))
    await wire.acked(2)


async def test_one_offending_frame_makes_the_whole_array_422(player: Player) -> None:
    session = await player.new_session()
    status, problem = await player.send_by_rest(session, [frame(1, 1.0), frame(2, 2.0, cmcd={"bl": "x"})])
    assert status == 422
    assert problem["errors"][0]["pointer"] == "/1/cmcd/bl"
    status, problem = await player.send_by_rest(session, [{"seq": 1}])
    assert problem["errors"][0]["pointer"] == "/0/position"
    status, problem = await player.send_by_rest(session, frame(200_000, 2.0))
    assert (status, problem["errors"][0]["pointer"]) == (422, "/seq")
    assert (await player.shown(session))["frames"] == 0


async def test_progress_may_be_put_by_rest_and_shows_in_the_course(player: Player) -> None:
    session = await player.new_session()
    path = f"/api/videos/sessions/{session['session_id']}/progress"
    for seq, position in ((1, 5.0), (2, 30.25)):
        answer = await player.client.put(path, json={"seq": seq, "position": position}, headers=player.headers)
        assert answer.status == 202, await answer.text()
    await player.eventually(session, lambda s: s["last_seq"] == 2)
    progress = await player.client.get("/api/progress/users/me", headers=player.headers)
    (item,) = (await progress.json())["items"]
    assert (item["position"], item["watched_ranges"], item["watched_duration"]) == (30.25, [[5.0, 30.25]], 25)
    assert (await player.new_session())["resume_position"] == 30.25


async def test_one_goes_on_no_later_than_at_the_end_of_a_shorter_video(player: Player, sql: Sql) -> None:
    place = "INSERT INTO progress (user_id, lecture_id, position_ms) VALUES ($1, $2, 540000)"
    await sql.execute(place, player.user_id, player.lecture.lecture_id)
    assert (await player.new_session())["resume_position"] == 540.0
    await sql.execute("UPDATE videos SET duration_seconds = 30.5")  # as one that replaces it
    session = await player.new_session()
    assert session["resume_position"] == 30.5
    assert (await player.open(session)).hello["resume_position"] == 30.5


async def test_a_session_nobody_has_seen_is_suspended_then_ended_and_can_be_woken(
    postgres_dsn: str, sql: Sql, redis_url: str
) -> None:
    lecture = await make_lecture(postgres_dsn)
    user_id = await make_learner(postgres_dsn, lecture.course_id)
    short = FAST | {"suspend_after_s": 0.3, "grace_s": 0.0}
    async with serving(settings(postgres_dsn, redis_url, sessions=short)) as client:
        player = Player(client, lecture, user_id)
        session = await player.new_session()
        wire = await player.open(session)
        await wire.send(frame(1, 1.0))
        await wire.acked(1)
        await wire.socket.close()
        await player.eventually(session, lambda s: s["status"] == "suspended")
        wire = await player.open(session)
        assert wire.hello["seq"] == 1
        assert (await player.shown(session))["status"] == "active"
        await wire.socket.close()
        await player.eventually(session, lambda s: s["status"] == "suspended")
        await sql.execute("UPDATE video_sessions SET seen_at = now() - interval '2 hours'")
        shown = await player.eventually(session, lambda s: s["status"] == "ended")
        assert shown["last_seq"] == 1


async def test_frames_by_rest_and_openings_are_limited_per_session(postgres_dsn: str, redis_url: str) -> None:
    lecture = await make_lecture(postgres_dsn)
    user_id = await make_learner(postgres_dsn, lecture.course_id)
    scarce = {"rate": 0.001, "per_s": 1, "burst": 2}
    limits = {"telemetry": scarce, "read": scarce}
    async with serving(settings(postgres_dsn, redis_url, sessions=FAST, limits=limits)) as client:
        player = Player(client, lecture, user_id)
        first, second = await player.new_session(), await player.new_session()
        path = f"/api/videos/sessions/{first['session_id']}"
        assert (await player.send_by_rest(first, frame(1, 1.0)))[0] == 202
        assert (await client.put(f"{path}/progress", json={"position": 1}, headers=player.headers)).status == 202
        for method, where in (("POST", "progress"), ("PUT", "progress"), ("POST", "network")):
            refused = await client.request(method, f"{path}/{where}", json={"position": 2}, headers=player.headers)
            assert (refused.status, (await refused.json())["code"]) == (429, "rate_limited")
            assert int(refused.headers["Retry-After"]) > 900
            assert refused.headers["RateLimit-Remaining"] == "0"
        assert (await player.send_by_rest(second, frame(1, 1.0)))[0] == 202
        for _ in range(2):
            await player.open(first)
        with pytest.raises(WSServerHandshakeError) as refused_opening:
            await player.open(first)
        assert refused_opening.value.status == 429
        await player.open(second)


async def test_a_process_holds_so_many_sockets_and_no_more_however_they_come(postgres_dsn: str, redis_url: str) -> None:
    lecture = await make_lecture(postgres_dsn)
    user_id = await make_learner(postgres_dsn, lecture.course_id)
    many = FAST | {"max_live_per_user": 9}
    async with serving(settings(postgres_dsn, redis_url, sessions=many, server={"max_sockets": 2})) as client:
        player = Player(client, lecture, user_id)
        made = [await player.new_session() for _ in range(6)]
        answers = await asyncio.gather(*map(player.open, made), return_exceptions=True)
        wires = [answer for answer in answers if isinstance(answer, Wire)]
        refused = [answer.status for answer in answers if isinstance(answer, WSServerHandshakeError)]
        inside = [wire for wire in wires if wire.hello["type"] == "hello"]
        late = [wire for wire in wires if wire not in inside]
        assert (len(inside), len(refused) + len(late), set(refused) <= {503}) == (2, 4, True)
        for wire in late:
            assert (wire.hello["type"], wire.hello["code"], wire.hello["retry_ms"] > 0) == ("bye", 4503, True)
            assert await wire.close_code() == 4503
        for wire in inside:
            await wire.send(frame(1, 1.0))
            await wire.acked(1)
        with pytest.raises(WSServerHandshakeError) as full:
            await player.open(made[0])
        assert full.value.status == 503
        assert "Retry-After" in (full.value.headers or {})


# CMCD, as players send it by themselves -------------------------------------------------------------------------------

LINES = (
    "e=ps,sta=s,sn=0,v=2,ts=1764000000000\n"
    "e=rr,ot=v,br=(800;v),d=2000,rc=200,ttfb=20,ttlb=250,bl=(2000),mtp=(7000),pt=0,url=\"https://cdn/a?x=1,2\",v=2\n"
    "e=ps,sta=p,msd=310,pt=0\n\n"
    "e=t,sta=p,pt=4000,bl=(9000),br=(800),com.example-key=\"x\"\n"
    "e=bc,sta=p,pt=6000,br=(1600)\n"
    "e=ps,sta=r,pt=7000,bs,bsd=(400)\n"
)  # fmt: skip


async def send_cmcd(
    player: Player, session: dict[str, Any], body: str = "", query: str = "", **headers: str
) -> tuple[int, dict[str, Any]]:
    """To the address that a stock player is given: it holds the session's token."""
    answer = await player.client.post(
        f"/api/videos/sessions/{session['session_id']}/network?token={session['token']}{query}",
        data=body.encode(),
        headers={"Content-Type": "application/cmcd", **headers},
    )
    return answer.status, await answer.json()


async def test_event_lines_of_cmcd_are_frames(player: Player) -> None:
    session = await player.new_session()
    before = metrics.CMCD_FRAMES.value
    status, told = await send_cmcd(player, session, LINES)
    assert (status, told["accepted"], told["duplicates"]) == (202, 6, 0)
    assert metrics.CMCD_FRAMES.value == before + 6
    assert told["decision"]["cmsd"]["etp"] > 0
    shown = await player.eventually(session, lambda s: s["frames"] == 6)
    expected = {
        "position": 7.0, "watched_seconds": 6.0, "segments": 1, "bytes": 200_000, "startup_ms": 310, "stalls": 1,
        "stall_ms": 400, "switches": 1,
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == expected


async def test_cmcd_of_a_request_comes_in_headers_or_in_the_address(player: Player) -> None:
    session = await player.new_session()
    status, told = await send_cmcd(
        player, session,
        **{"CMCD-Object": "br=1600,d=2000,ot=v", "CMCD-Request": "bl=4000,mtp=9000,pt=3000", "CMCD-Status": "bs"},
    )  # fmt: skip
    assert (status, told["accepted"]) == (202, 1)
    query = "&CMCD=bl%3D4100%2Cbr%3D800%2Cmtp%3D9100%2Csid%3D%22a%2Cb%22%2Csu"
    status, told = await send_cmcd(player, session, query=query, **{"Content-Type": "text/plain"})
    assert (status, told["accepted"]) == (202, 1)
    shown = await player.eventually(session, lambda s: s["frames"] == 2)
    assert (shown["position"], shown["stalls"], shown["switches"]) == (3.0, 1, 1)


async def test_what_is_wrong_in_cmcd_costs_nothing_else(player: Player) -> None:
    session = await player.new_session()
    absurd = f'bl=-5,br={"9" * 400},mtp=1e9,msd=99999999999999,pt=-3,bs=?1,bsd=(1 2 x),sta="{"p" * 999}",=,((,pr=?0'
    status, told = await send_cmcd(player, session, absurd)
    assert (status, told["accepted"]) == (202, 1)
    shown = await player.eventually(session, lambda s: s["frames"] == 1)
    assert (shown["stalls"], shown["stall_ms"], shown["startup_ms"], shown["position"]) == (1, 3, 86_400_000, 0)
    status, told = await send_cmcd(player, session, 'cid="a\u2028b\x85c",pt=2000\r\npt=3000\r\n')
    assert (status, told.get("accepted")) == (202, 2)


@pytest.mark.parametrize(
    ("body", "expected", "pointers"),
    [
        ("bl=1\n\n!!\nbr=2", 422, ["/1"]), ("bl=1\n" * 101, 422, [""]), ("\n", 422, [""]),
        ("bl=1\n" * 10_000, 422, [""]), ("a" * 300_000, 413, None),
    ],
)  # fmt: skip
async def test_what_is_no_cmcd_is_refused_whole(
    player: Player, body: str, expected: int, pointers: list[str] | None
) -> None:
    session = await player.new_session()
    status, problem = await send_cmcd(player, session, body)
    assert (status, [fault["pointer"] for fault in problem.get("errors", ())]) == (expected, pointers or [])
    assert (await player.shown(session))["frames"] == 0


async def test_what_is_no_cmcd_in_the_address_or_in_headers_is_pointed_at(player: Player) -> None:
    session = await player.new_session()
    for said, pointer in (({"query": "&CMCD=!!"}, "/CMCD"), ({"CMCD-Object": "!!"}, "")):
        status, problem = await send_cmcd(player, session, **said)
        assert (status, [fault["pointer"] for fault in problem["errors"]]) == (422, [pointer])


async def test_cmcd_of_another_session_or_of_none_is_refused(player: Player) -> None:
    mine, other = await player.new_session(), await player.new_session()
    assert (await send_cmcd(player, mine | {"token": other["token"]}, "bl=1"))[0] == 401
    assert (await send_cmcd(player, mine | {"session_id": str(uuid4())}, "bl=1"))[0] == 401
    assert (await send_cmcd(player, mine | {"token": "x"}, "bl=1"))[0] == 401


async def test_a_session_begins_with_what_others_on_its_network_got(player: Player, sql: Sql) -> None:

    async def watch() -> float:
        """What a new session was told of its network; it then measures 4 Mbit/s and leaves."""
        made = await player.new_session(connection="wifi", takeover=True)
        state = await sql.fetchval("SELECT state FROM video_sessions WHERE id = $1", UUID(made["session_id"]))
        wire = await player.open(made)
        await wire.send(frame(1, 0.0, segments=[{"br": 300, "bytes": 1_000_000, "ms": 2000}] * 6))
        await wire.acked(1)
        await wire.socket.close()
        return float(json.loads(state)["quality"]["prior_kbps"])

    assert [await watch() for _ in range(3)] == [0.0] * 3
    async with asyncio.timeout(30):
        while (told := await watch()) == 0.0:  # noqa: ASYNC110  # nothing tells us
            await asyncio.sleep(0.2)
    assert told == pytest.approx(4000, rel=0.01)
