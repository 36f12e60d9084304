"""Where a ledger is: its own file, or the database that a variable named when it began."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.driver_lock import driver_lock, is_held
from orchestrator.errors import LedgerError, SearchLockedError
from orchestrator.folders import SearchFolder, all_searches
from orchestrator.opening import open_ledger
from orchestrator.results import read_result
from orchestrator.study.owner import forget_study
from orchestrator.study.place import STORAGE_VARIABLE, claim_place, shown_url, storage_url
from tests.unit.ledgers import NAME, OBJECTIVE, search_config, search_folder

URL = "postgresql+psycopg://me:s3cret@db.example:5432/searches?sslmode=require"


def test_by_default_it_is_a_file_in_the_search_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert storage_url(tmp_path) == claim_place(tmp_path) == f"sqlite:///{tmp_path / 'study.db'}"
    assert not list(tmp_path.iterdir())
    (tmp_path / "study.db").touch()
    monkeypatch.setenv(STORAGE_VARIABLE, URL)  # of new searches, and this one exists
    assert storage_url(tmp_path) == f"sqlite:///{tmp_path / 'study.db'}"


def test_a_new_search_notes_its_database_and_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, URL)
    assert storage_url(tmp_path) == URL
    assert not list(tmp_path.iterdir()), "asking writes nothing"
    assert claim_place(tmp_path) == URL
    noted = (tmp_path / "storage.json").read_text()
    assert "db.example" in noted
    assert "s3cret" not in noted
    monkeypatch.setenv(STORAGE_VARIABLE, URL.replace("s3cret", "new-one"))
    assert storage_url(tmp_path) == URL.replace("s3cret", "new-one")
    for other in ("", "postgresql+psycopg://me:s3cret@elsewhere/searches"):
        monkeypatch.setenv(STORAGE_VARIABLE, other)  # PGPASSWORD or ~/.pgpass has to have it
        assert storage_url(tmp_path) == URL.replace(":s3cret", "")


def test_no_password_is_shown() -> None:
    for url in (URL, "postgresql://db/x?password=s3cret&sslpassword=s3cret&user=me"):
        assert "s3cret" not in shown_url(url)


def test_what_is_no_url_is_refused_without_repeating_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, "me:s3cret@db")
    with pytest.raises(LedgerError, match=r"LATENTUNE_STORAGE is no SQLAlchemy URL") as caught:
        storage_url(tmp_path)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("foo://me:s3cret@db/x", "of a database that is known here"),
        ("postgresql+nodriver://me:s3cret@db/x", "of a database that is known here"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_what_is_no_place_for_a_ledger_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, message: str
) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, url)
    with pytest.raises(LedgerError, match=f"^LATENTUNE_STORAGE .*{message}") as caught:
        storage_url(tmp_path)
    assert "s3cret" not in str(caught.value)


def test_a_relative_file_is_the_same_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, "sqlite:///ledger.db")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    url = claim_place(tmp_path)
    monkeypatch.chdir(tmp_path / "other")
    assert storage_url(tmp_path) == url == f"sqlite:///{tmp_path / 'ledger.db'}"


def test_a_note_that_was_damaged_is_said(tmp_path: Path) -> None:
    (tmp_path / "storage.json").write_text('{"url": "postg')
    with pytest.raises(LedgerError, match="does not say where the search's ledger is"):
        storage_url(tmp_path)


# --- a whole search in a database of many


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchFolder:
    monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path / 'many.db'}")
    return search_folder(tmp_path / "home")


def test_a_search_lives_in_its_database(folder: SearchFolder, tmp_path: Path) -> None:
    config = search_config()
    with driver_lock(folder) as fence:
        folder.config.write_text(config.to_yaml())
        ledger = open_ledger(config, folder, fence=fence)
        ledger.ask()
        ledger.report(0, 2, {OBJECTIVE: 0.5})
        assert is_held(folder)
        with pytest.raises(SearchLockedError, match="is being run by process"), driver_lock(folder):
            pytest.fail("two drivers run one search")
    assert not is_held(folder)
    assert not folder.study.exists()
    assert all_searches(tmp_path / "home") == [folder]
    assert [trial.step for trial in read_result(folder, "").trials] == [2]
    with driver_lock(folder) as fence:
        again = open_ledger(config, folder, fence=fence).ask()
    assert again is not None
    assert (again.number, again.step, again.attempts) == (0, 2, 2)


def test_a_search_of_another_folder_is_left_alone(folder: SearchFolder, tmp_path: Path) -> None:
    with driver_lock(folder) as fence:
        mine = open_ledger(search_config(), folder, fence=fence)
        mine.ask()
    other = search_folder(tmp_path / "other")
    with driver_lock(other) as fence:
        with pytest.raises(LedgerError, match="begun in another folder"):
            open_ledger(search_config(), other, fence=fence)
        forget_study(other.path, NAME)  # which is not its own
    assert [trial.status for trial in mine.all()] == ["running"]
    forget_study(folder.path, NAME)
    with driver_lock(other) as fence:
        assert open_ledger(search_config(), other, fence=fence).all() == []
