from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from standins.video_host.store import Settings, State, Store, Video

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_video(uid: str, state: State = "pendingupload") -> Video:
    return Video(
        uid=uid,
        upload_key=f"key-{uid}",
        created=NOW,
        modified=NOW,
        upload_expiry=NOW + timedelta(minutes=30),
        state=state,
        max_duration_s=60,
    )


def test_what_was_kept_is_there_after_a_restart(settings: Settings) -> None:
    store = Store(settings)
    video = a_video("v1")
    store.add(video)
    video.meta = {"name": "Grüße"}
    store.save(video)
    again = Store(settings)
    assert again.get("v1") == video
    assert again.by_upload_key("key-v1") == video
    assert again.by_upload_key("key") is None


def test_a_relative_data_folder_is_pinned_for_the_encoder_runs_elsewhere(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store(replace(settings, data_dir=Path("data"))).folder("v1") == tmp_path / "data" / "videos" / "v1"


def test_an_encoding_that_was_cut_short_is_queued_again_without_its_leftovers(settings: Settings) -> None:
    store = Store(settings)
    store.add(a_video("v1", "inprogress"))
    folder = store.folder("v1")
    (folder / "source").write_bytes(b"video")
    for leftover in ("encoding-abc", "media"):
        (folder / leftover).mkdir()
    (folder / "torn.part").write_bytes(b"{")
    again = Store(settings).get("v1")
    assert again is not None
    assert again.state == "queued"
    assert sorted(path.name for path in folder.iterdir()) == ["source", "video.json"]


def test_an_upload_that_was_cut_short_waits_again(settings: Settings) -> None:
    store = Store(settings)
    store.add(a_video("v1"))
    (store.folder("v1") / "source").write_bytes(b"whole, but not yet recorded")
    Store(settings)
    assert [path.name for path in store.folder("v1").iterdir()] == ["video.json"]


@pytest.mark.parametrize("state", ["ready", "error"])
def test_a_finished_video_stays_finished(settings: Settings, state: State) -> None:
    store = Store(settings)
    store.add(a_video("v1", state))
    again = Store(settings).get("v1")
    assert again is not None
    assert again.state == state


def test_a_deletion_that_was_cut_short_is_finished_at_the_next_start(settings: Settings) -> None:
    store = Store(settings)
    store.add(a_video("v1"))
    store.forget(store.videos["v1"])
    assert store.folder("v1").exists()
    assert Store(settings).videos == {}
    assert not store.folder("v1").exists()


def test_a_state_that_cannot_be_read_does_not_keep_the_host_from_starting(settings: Settings) -> None:
    store = Store(settings)
    store.add(a_video("v1"))
    store.add(a_video("v2"))
    (store.folder("v1") / "video.json").write_text("{}")
    assert list(Store(settings).videos) == ["v2"]
    assert store.folder("v1").exists()
