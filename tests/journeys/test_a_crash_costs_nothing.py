"""A server that dies in mid-lecture costs its learners nothing: every session resumes, every frame counts once."""

import pytest

from tests.support.classroom import classroom
from tests.support.lectures import make_lecture
from tests.support.server_process import ServerProcess

PLAYERS = 50
FRAMES = 40
INTERVAL_S = 0.2


async def test_a_kill_9_under_fifty_players_loses_nothing_and_counts_nothing_twice(postgres_dsn: str, redis_url: str):
    async with ServerProcess(postgres_dsn, redis_url) as server:
        lecture = await make_lecture(postgres_dsn)
        ids = {"course_id": str(lecture.course_id), "video_id": str(lecture.video_id)}
        async with classroom([server.base_url], **ids, players=PLAYERS) as room:
            room.play(FRAMES, INTERVAL_S)
            await room.until_all(lambda player: player.acked >= 10, "ten acknowledged frames")
            await server.kill9()
            acknowledged = [player.acked for player in room.players]
            assert any(player.acked > player.saved for player in room.players), "nothing is left to replay"

            await server.start()
            await room.until_all(lambda player: player.reconnects == 1, "the session to resume")
            resumed = [player.last_hello["seq"] for player in room.players if player.last_hello]
            assert all(seq >= before for seq, before in zip(resumed, acknowledged, strict=True))

            await room.finish()
            answers = await room.each(lambda player: player.get_session())
            assert [answer["frames"] for answer in answers] == [FRAMES] * PLAYERS
            assert await room.wrong() == [], server.log
            assert "Traceback" not in server.log


async def test_a_session_resumes_to_the_second_after_a_kill_9(postgres_dsn: str, redis_url: str):
    async with ServerProcess(postgres_dsn, redis_url, {"LECTERN_SESSIONS__CHECKPOINT_S": "3600"}) as server:
        lecture = await make_lecture(postgres_dsn)
        ids = {"course_id": str(lecture.course_id), "video_id": str(lecture.video_id)}
        async with classroom([server.base_url], **ids, players=1) as room:
            (player,) = room.players
            for second in range(61, 66):
                player.report(second, cmcd={"sta": "p"})
            await player.until_acked()
            assert player.saved == 0
            await server.restart()
            await player.until(lambda: player.reconnects == 1, what="the session to resume")
            assert player.last_hello is not None
            assert player.last_hello["seq"] == 5
            assert player.last_hello["resume_position"] == pytest.approx(65, abs=1)
            assert player.violations == []


async def test_a_drained_server_tells_players_when_to_come_back(postgres_dsn: str, redis_url: str):
    async with ServerProcess(postgres_dsn, redis_url) as server:
        lecture = await make_lecture(postgres_dsn)
        ids = {"course_id": str(lecture.course_id), "video_id": str(lecture.video_id)}
        async with classroom([server.base_url], **ids, players=12) as room:
            room.play(20, INTERVAL_S)
            await room.until_all(lambda player: player.acked >= 5, "five acknowledged frames")
            assert await server.terminate(timeout_s=20) == 0
            for player in room.players:
                await player.until(lambda player=player: bool(player.close_codes()), what="a close")
                assert player.close_codes()[0] == 1012
                assert player.events_of("bye")[0].data["retry_ms"] >= 0
            await server.start()
            await room.finish()
            assert await room.wrong() == [], server.log


@pytest.mark.slow
async def test_five_crashes_in_one_lecture_lose_nothing_and_count_nothing_twice(postgres_dsn: str, redis_url: str):
    async with ServerProcess(postgres_dsn, redis_url) as server:
        lecture = await make_lecture(postgres_dsn)
        ids = {"course_id": str(lecture.course_id), "video_id": str(lecture.video_id)}
        async with classroom([server.base_url], **ids, players=30) as room:
            room.play(100, INTERVAL_S)
            for crash in range(1, 6):
                await room.until_all(
                    lambda player, least=12 * crash: player.acked >= least, "frames to be acknowledged"
                )
                await server.restart()
                await room.until_all(lambda player, least=crash: player.reconnects >= least, "the session to resume")
            await room.finish()
            assert await room.wrong() == [], server.log


async def test_a_second_process_takes_over_when_the_first_is_killed(postgres_dsn: str, redis_url: str):
    async with ServerProcess(postgres_dsn, redis_url) as first, ServerProcess(postgres_dsn, redis_url) as second:
        lecture = await make_lecture(postgres_dsn)
        ids = {"course_id": str(lecture.course_id), "video_id": str(lecture.video_id)}
        async with classroom([first.base_url, second.base_url], **ids, players=12) as room:
            room.play(FRAMES, INTERVAL_S)
            await room.until_all(lambda player: player.acked >= 10, "ten acknowledged frames")
            await first.kill9()
            await room.until_all(lambda player: player.reconnects >= 1, "the session to move")
            await room.finish()
            found = [difference for player in room.players for difference in await player.differences(second.base_url)]
            assert found + [violation for player in room.players for violation in player.violations] == [], second.log
