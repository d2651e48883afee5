import sys
from pathlib import Path

import pytest

from embedded import admin, processes


@pytest.mark.parametrize(("options", "place"), [([], "data"), (["--data", "other"], "other")])
def test_data_on_which_nothing_runs_are_told_as_such(
    options: list[str], place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("LECTERN_POSTGRES__DSN", "LECTERN_REDIS__URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(processes, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["bin/admin", *options, "jobs", "list"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "keys.json").touch()
    assert admin.main() == 1
    assert f"nothing runs on {tmp_path / place};" in capsys.readouterr().err
