"""What a video is to whom."""

from typing import Any

import pytest

from server.domain.videos import ERRORS, error_of, show_video, status_of

ROW: dict[str, Any] = {
    "id": 1, "lecture_id": 2, "title": "V", "description": "", "status": "ready", "duration_seconds": 9.5,
    "visibility": "private", "upload_user_id": 3, "error": None, "created_at": 4, "updated_at": 5,
    "cloudflare_uid": "uid", "thumbnail_url": "https://host/uid/thumbnail.jpg", "ladder": None,
}  # fmt: skip
SIGNED = {"hls": "h", "dash": "d", "thumbnail": "t", "expires_at": 6}


@pytest.mark.parametrize(
    ("state", "ready_to_stream", "status"),
    [
        ("pendingupload", False, "pending_upload"), ("downloading", False, "processing"),
        ("queued", False, "processing"), ("inprogress", False, "processing"), ("inprogress", True, "ready"),
        ("ready", False, "ready"), ("error", False, "error"), ("", False, "processing"),
    ],
)  # fmt: skip
def test_the_host_s_states_in_our_words(state: str, ready_to_stream: bool, status: str) -> None:
    assert status_of(state, ready_to_stream) == status


def test_playback_is_given_where_the_video_is_ready_and_may_be_watched() -> None:
    shown = show_video(ROW, owner=False, may_watch=True, sign=lambda *_: SIGNED)
    assert shown["playback"] == {"hls": "h", "dash": "d", "expires_at": 6}
    assert shown["thumbnail_url"] == "t"
    for row, may_watch, signed in (
        (ROW, False, SIGNED),
        (ROW, True, None),
        (ROW | {"status": "processing"}, True, SIGNED),
        (ROW | {"cloudflare_uid": None}, True, SIGNED),
    ):
        shown = show_video(row, owner=False, may_watch=may_watch, sign=lambda *_, signed=signed: signed)
        assert "playback" not in shown
        assert shown["thumbnail_url"] is None


def test_the_host_s_id_and_address_are_the_owner_s_to_see() -> None:
    mine = show_video(ROW | {"status": "processing"}, owner=True, may_watch=True, sign=lambda *_: SIGNED)
    assert (mine["cloudflare_uid"], mine["thumbnail_url"]) == ("uid", ROW["thumbnail_url"])
    theirs = show_video(ROW, owner=False, may_watch=True, sign=lambda *_: SIGNED)
    assert "cloudflare_uid" not in theirs
    assert "ladder" not in theirs


def test_what_the_host_says_of_a_bad_file_an_instructor_understands() -> None:
    assert "MP4" in error_of("ERR_NON_VIDEO", "The file was not recognized as a valid video file.")
    assert error_of("ERR_NEW", "Its own words.") == "Its own words."
    assert error_of(None, None) == ERRORS["ERR_UNKNOWN"]
