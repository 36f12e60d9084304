"""Where things live, and what cannot be a home."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.driver_lock import driver_lock
from orchestrator.errors import HomeError, SearchNotFoundError
from orchestrator.folders import SearchFolder, all_searches, home_folder


def test_a_file_is_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LATENTUNE_HOME", str(tmp_path / "file"))
    with pytest.raises(HomeError, match=r"LATENTUNE_HOME=.* is no folder"):
        home_folder()


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "searches").touch()
    folder = SearchFolder.of(tmp_path, "tiny")
    with pytest.raises(HomeError, match="cannot be made"), driver_lock(folder):
        pass


@pytest.mark.parametrize("name", ["../x", "/etc", "A", "", "a/b", ".hidden", "x" * 65])
def test_a_name_that_is_no_slug_names_no_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(SearchNotFoundError, match="no search name"):
        SearchFolder.of(tmp_path, name)


def test_what_was_never_begun_is_not_found(tmp_path: Path) -> None:
    assert all_searches(tmp_path) == []
    with pytest.raises(SearchNotFoundError, match="known: none"):
        SearchFolder.existing(tmp_path, "tiny")
