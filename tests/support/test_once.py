from pathlib import Path

import pytest

from tests.support.once import made_once


def test_it_is_made_once(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> None:
    name, makings = f"{request.node.name}-{id(request)}", []

    def make(directory: Path) -> None:
        makings.append(directory)
        (directory / "made").touch()

    first = made_once(tmp_path_factory, name, make)
    assert made_once(tmp_path_factory, name, make) == first
    assert len(makings) == 1
    assert [path.name for path in first.iterdir()] == ["made"]


def test_what_failed_half_way_is_not_taken_for_it(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    name = f"{request.node.name}-{id(request)}"

    def fail(directory: Path) -> None:
        (directory / "half").touch()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        made_once(tmp_path_factory, name, fail)
    made = made_once(tmp_path_factory, name, lambda directory: (directory / "whole").touch())
    assert [path.name for path in made.iterdir()] == ["whole"]
