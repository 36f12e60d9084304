"""Backups: consistent while others write, complete, never over anything, refused once changed."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.errors import BackupError, TrackingError
from orchestrator.service.backup import MANIFEST, STUDIES, TRACKING, backup, restore
from orchestrator.service.postgres import is_postgres, tables
from tests.unit.homes import PLACES, contents, make_home, write


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path)


def test_what_comes_back_is_what_was_there(home: Path, tmp_path: Path) -> None:
    record = backup(home, tmp_path / "copy")
    assert (record.searches, record.running, record.left_out) == (["tiny"], [], [])
    before = contents(home)
    restored = tmp_path / "elsewhere" / "home"
    assert restore(tmp_path / "copy", restored) == record
    left_out = {"searches/tiny/lock", "searches/tiny/control/stop", "cache/records/rows"}
    after = contents(restored)
    assert after.keys() == before.keys() - left_out
    assert [n for n in after if not n.endswith(".db") and after[n] != before[n]] == []
    with closing(sqlite3.connect(restored / "searches" / "tiny" / "study.db")) as study:
        assert study.execute("select count(*) from studies").fetchone() == (0,)
    assert (restored / "secrets" / "mlflow_admin_password").stat().st_mode & 0o077 == 0


def test_artifacts_are_found_where_they_are_now(home: Path, tmp_path: Path) -> None:
    backup(home, tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "new")
    with closing(sqlite3.connect(tmp_path / "new" / "mlflow.db")) as store:
        for table, columns in PLACES.items():
            words = f"select {', '.join(columns)} from {table}"  # noqa: S608 - our own words
            found = store.execute(words).fetchall()
            moved = f"{(tmp_path / 'new').as_uri()}/mlartifacts/1"
            assert found == [(moved,) * len(columns), ("mlflow-artifacts:/1",) * len(columns)]


def test_a_database_in_the_middle_of_a_write(home: Path, tmp_path: Path) -> None:
    """Half a transaction is not in the copy; what was committed to the write-ahead log is."""
    with closing(sqlite3.connect(home / "mlflow.db", isolation_level=None)) as writer:
        writer.execute("pragma journal_mode = wal")
        writer.execute("insert into runs values ('committed')")
        writer.execute("begin immediate")
        writer.execute("insert into runs values ('torn')")
        backup(home, tmp_path / "copy")
        writer.execute("rollback")
    with closing(sqlite3.connect(tmp_path / "copy" / "home" / "mlflow.db")) as copy:
        found = [row[0] for row in copy.execute("select artifact_uri from runs")]
    assert "committed" in found and "torn" not in found


def test_the_order_is_that_of_what_rests_on_what(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that is there when the ledger is read is in the copy; so is one just after."""
    from orchestrator.service import backup as module

    search, copy_of = home / "searches" / "tiny", module._copy_database

    def trained_meanwhile(source: Path, target: Path) -> None:
        copy_of(source, target)
        if source.name == "study.db":
            assert not (target.parent / "trials/tiny-0/00000120.safetensors").exists()
            write(search / "trials/tiny-0/00000120.safetensors", "next")
            write(search / "events.jsonl", "an event more")

    monkeypatch.setattr(module, "_copy_database", trained_meanwhile)
    backup(home, tmp_path / "copy")
    copied = tmp_path / "copy" / "home" / "searches" / "tiny"
    states = sorted(path.name for path in (copied / "trials" / "tiny-0").iterdir())
    assert states == ["00000060.safetensors", "00000120.safetensors"]
    assert (copied / "events.jsonl").read_text() == "events.jsonl"


def test_nothing_is_overwritten(home: Path, tmp_path: Path) -> None:
    backup(home, tmp_path / "copy")
    with pytest.raises(BackupError, match="exists"):
        backup(home, tmp_path / "copy")
    with pytest.raises(BackupError, match="is not empty"):
        restore(tmp_path / "copy", home)
    with pytest.raises(BackupError, match="lies in"):
        backup(home, home / "copy")
    with pytest.raises(BackupError, match="there is no"):
        backup(tmp_path / "nowhere", tmp_path / "other")


def test_a_backup_that_was_changed_is_refused(home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    backup(home, copy)
    write(copy / "home" / "searches" / "tiny" / "config.yaml", "other")
    with pytest.raises(BackupError, match=r"config\.yaml"):
        restore(copy, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (copy / MANIFEST).unlink()
    with pytest.raises(BackupError, match="is no backup"):
        restore(copy, tmp_path / "new")


def test_one_that_breaks_off_leaves_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # where no pg_dump is
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TrackingError, match="pg_dump is not installed"):
        backup(home, tmp_path / "copy", databases={TRACKING: "postgresql://ann:hidden@host/db"})
    assert sorted(tmp_path.iterdir()) == before


def test_a_bucket_is_named_and_not_copied(home: Path, tmp_path: Path) -> None:
    assert backup(home, tmp_path / "c", artifacts="s3://bucket/x").left_out == ["s3://bucket/x"]
    told = json.loads((tmp_path / "c" / MANIFEST).read_text())
    assert told["left_out"] == ["s3://bucket/x"]


@pytest.mark.parametrize(
    ("name", "remedy"), [(TRACKING, "--store"), (STUDIES, "LATENTUNE_STORAGE")]
)
def test_a_postgres_needs_a_postgres(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, remedy: str
) -> None:
    """pg_dump here writes whatever; the name stands in the record, the password does not."""
    tool = tmp_path / "bin" / "pg_dump"
    write(
        tool, '#!/bin/sh\nfor word; do case $word in --file=*) echo x > "${word#*=}";; esac; done'
    )
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    uri = "postgresql+psycopg://ann:hidden@host/db"
    record = backup(home, tmp_path / "copy", databases={name: uri})
    assert list(record.databases) == [name]
    assert "hidden" not in record.model_dump_json()
    for databases in ({}, {name: "sqlite:///x.db"}):
        with pytest.raises(BackupError, match=remedy):
            restore(tmp_path / "copy", tmp_path / "new", databases=databases)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("postgresql://ann@host/db", True),
        ("postgresql+psycopg://host/db", True),
        ("sqlite:////x/mlflow.db", False),
        ("http://host:5000", False),
    ],
)
def test_which_stores_are_postgres(uri: str, expected: bool) -> None:
    assert is_postgres(uri) is expected


def test_a_password_is_no_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """psql here writes down what it was given."""
    tool = tmp_path / "psql"
    write(tool, '#!/bin/sh\necho "$@ $PGPASSWORD" > "$0.given"; echo 7\n')
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert tables("postgresql+psycopg://ann:p%40ss@host:5433/db?sslmode=require") == 7
    given = (tmp_path / "psql.given").read_text()
    assert "--dbname=postgresql://ann@host:5433/db?sslmode=require" in given
    assert given.strip().endswith("p@ss")
    assert given.count("p@ss") == 1 and "p%40ss" not in given
