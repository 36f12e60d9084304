"""What a backup takes by place and not by name, and what lies elsewhere: nothing goes silently."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.errors import BackupError, SecretError, TrackingError
from orchestrator.folders import UPLOADS, all_searches
from orchestrator.service.backup import STUDIES, TRACKING, backup, restore
from orchestrator.service.copied_files import members
from orchestrator.service.secret_files import CREDENTIALS, FLASK_KEY, RAY_TOKEN, ensure_secret
from orchestrator.service.server_record import (
    SERVER_FILE,
    ServerRecord,
    read_server,
    write_server,
)
from orchestrator.study.place import PLACE_FILE, STORAGE_VARIABLE, read_place, storage_url
from orchestrator.yaml_source import dump_yaml, read_yaml
from tests.unit.homes import contents, make_home, write

PG1, PG2 = "postgresql+psycopg://ann@pg1/studies", "postgresql+psycopg://ann@pg2/again"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path)


@pytest.fixture(autouse=True)
def nobodys_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (STORAGE_VARIABLE, "LATENTUNE_SECRETS", "MLFLOW_TRACKING_URI",
                 "MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("orchestrator.service.backup.is_held", lambda _: False)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Postgres's tools, which write down what they were given."""
    folder = tmp_path / "bin"
    told = f'echo "$0 $@" >> {tmp_path}/told; '
    keep = 'for word; do case $word in --file=*) echo x > "${word#*=}";; esac; done'
    for name, does in (("pg_dump", keep), ("psql", "echo 0"), ("pg_restore", "true")):
        write(folder / name, f"#!/bin/sh\n{told}{does}\n")
        (folder / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return tmp_path / "told"


def in_database(search: Path, url: str = PG1) -> None:
    """Let a search have its ledger in a database."""
    (search / "study.db").unlink()
    (search / PLACE_FILE).write_text(json.dumps({"url": url, "id": "a" * 32}))


# By place


def test_searches_of_every_name_are_in_it(home: Path, tmp_path: Path) -> None:
    for name in ("tune-lr", "cache", "control", "pulled", "lock", "uploads"):
        shutil.copytree(home / "searches" / "tiny", home / "searches" / name)
    copied = backup(home, tmp_path / "copy").searches
    assert copied == [folder.name for folder in all_searches(home)]
    assert len(copied) == 7


def test_what_a_person_brought_is_in_it(home: Path, tmp_path: Path) -> None:
    theirs = ("uploads/0123456789abcdef/model/cache/x.tmp", "uploads/0123456789abcdef/model/a.lock",
              "mlartifacts/1/tune-abcdefgh/control/lock", "mlartifacts/1/notes-wal",
              "searches/tiny/artifacts/tiny-0/lock")  # fmt: skip
    gone = ("searches/tiny/tune-ab12_xyz/state", "searches/tiny/.result.json.77.tmp",
            "searches/tiny/lock.json", "searches/tiny/shipper.lock", "searches/tiny/study.db-wal",
            "mlflow.lock", "mlflow-server.lock",
            ".x.1.tmp", "pulled/tiny", SERVER_FILE)  # fmt: skip
    for name in (*theirs, *gone):
        write(home / name, "{}")
    backup(home, tmp_path / "copy")
    copied = contents(tmp_path / "copy" / "home")
    assert [name for name in theirs if name not in copied] == []
    assert [name for name in gone if name in copied] == []


def test_links_are_followed(home: Path, tmp_path: Path) -> None:
    (home / "searches").rename(tmp_path / "disk2")
    (home / "searches").symlink_to(tmp_path / "disk2")
    shipped = tmp_path / "disk2" / "tiny" / "shipped.json"
    shipped.rename(tmp_path / "shipped")
    shipped.symlink_to(tmp_path / "shipped")
    assert backup(home, tmp_path / "copy").searches == ["tiny"]
    copied = tmp_path / "copy" / "home" / "searches" / "tiny" / "shipped.json"
    assert (copied.read_text(), copied.is_symlink()) == ("shipped.json", False)


def test_links_to_nowhere_and_in_circles_are_refused(home: Path, tmp_path: Path) -> None:
    link = home / "searches" / "tiny" / "trials" / "away"
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(BackupError, match=r"trials/away is a link that leads nowhere"):
        backup(home, tmp_path / "copy")
    link.unlink()
    link.symlink_to(home / "searches")
    with pytest.raises(BackupError, match="a link to what it lies in"):
        list(members(home, "states"))
    assert not (tmp_path / "copy").exists()


# In databases


def test_the_servers_own_note_is_read(home: Path, tmp_path: Path, tools: Path) -> None:
    write_server(home, ServerRecord(store="postgresql+psycopg://ann:hidden@pg1/mlflow"))
    assert "hidden" not in (home / SERVER_FILE).read_text()
    record = backup(home, tmp_path / "copy", databases={TRACKING: "http://127.0.0.1:5000"})
    assert list(record.databases) == [TRACKING]
    assert record.left_out == []
    assert "--dbname=postgresql://ann@pg1/mlflow" in tools.read_text()


def test_a_ledger_is_found_where_its_search_says(
    home: Path, tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_database(home / "searches" / "tiny")
    record = backup(home, tmp_path / "copy")
    assert list(record.databases) == [STUDIES]
    assert "pg_dump --dbname=postgresql://ann@pg1/studies" in tools.read_text()
    restore(tmp_path / "copy", tmp_path / "new", databases={STUDIES: PG2})
    monkeypatch.setenv(STORAGE_VARIABLE, PG2.replace("ann@", "ann:hidden@"))
    search = tmp_path / "new" / "searches" / "tiny"
    assert storage_url(search) == PG2.replace("ann@", "ann:hidden@")
    place = read_place(search)
    assert place is not None and (place.url, place.id) == (PG2, "a" * 32)


def test_the_command_refuses_a_database_that_it_cannot_reach(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (home / "mlflow.db").unlink()
    in_database(home / "searches" / "tiny", "postgresql+psycopg://u@127.0.0.1:9/studies")
    tool = tmp_path / "bin" / "pg_dump"
    write(tool, "#!/bin/sh\necho no such server >&2\nexit 1\n")
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    monkeypatch.setenv("LATENTUNE_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setattr("sys.argv", ["latentune", "backup", str(tmp_path / "copy"), "--json"])
    with pytest.raises(SystemExit) as caught:
        main()
    told = capsys.readouterr()
    assert (caught.value.code, told.out) == (1, "")
    assert "127.0.0.1:9/studies failed: no such server" in told.err
    assert not (tmp_path / "copy").exists()


def test_ledgers_that_cannot_be_copied_are_refused(home: Path, tmp_path: Path) -> None:
    tiny = home / "searches" / "tiny"
    in_database(tiny, "mysql://u@db/studies")
    with pytest.raises(BackupError, match=r"tiny in mysql://u@db/studies"):
        backup(home, tmp_path / "copy")
    in_other = home / "searches" / "other"
    shutil.copytree(tiny, in_other)
    (in_other / PLACE_FILE).write_text(json.dumps({"url": PG1, "id": "b" * 32}))
    with pytest.raises(BackupError, match="several databases"):
        backup(home, tmp_path / "copy")


def test_what_is_not_in_it_is_told(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = {TRACKING: "https://ann:hidden@mlflow.example"}
    left_out = backup(home, tmp_path / "a", databases=server).left_out
    assert left_out == ["MLflow at https://mlflow.example"]
    assert "NOT in the backup: MLflow at https://mlflow.example" in caplog.text
    write_server(home, ServerRecord(store="mysql://u:p@db/mlflow", artifacts="s3://bucket/x"))
    left_out = backup(home, tmp_path / "b", databases=server).left_out
    assert left_out == ["MLflow's store mysql://u@db/mlflow", "s3://bucket/x"]
    elsewhere = ServerRecord(store=f"sqlite:///{tmp_path}/x.db", artifacts=str(tmp_path / "art"))
    write_server(home, elsewhere)
    assert len(backup(home, tmp_path / "c").left_out) == 2
    inside = ServerRecord(
        store=f"sqlite:///{home}/mlflow.db", artifacts=(home / "mlartifacts").as_uri()
    )
    write_server(home, inside)
    assert backup(home, tmp_path / "d").left_out == []


def test_a_broken_note_is_no_answer(home: Path, tmp_path: Path) -> None:
    write(home / SERVER_FILE, "[]")
    with pytest.raises(TrackingError, match="start the server again"):
        backup(home, tmp_path / "copy")
    assert read_server(tmp_path) is None


# Secrets


def test_secrets_that_lie_elsewhere_are_in_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run" / "secrets"
    texts = {name: ensure_secret(folder, name) for name in (CREDENTIALS, FLASK_KEY)}
    write(home / "secrets" / FLASK_KEY, "one that nobody uses")
    monkeypatch.setenv("LATENTUNE_SECRETS", str(folder))
    record = backup(home, tmp_path / "copy")
    for name, text in texts.items():
        copied = tmp_path / "copy" / "home" / "secrets" / name
        assert copied.read_text().strip() == text
        assert copied.stat().st_mode & 0o077 == 0
    assert sorted(Path(place).name for place in record.left_out) == [
        "mlflow_admin_password", "postgres_password",
    ]  # fmt: skip
    assert RAY_TOKEN not in "".join(record.left_out)
    (folder / CREDENTIALS).chmod(0o644)
    with pytest.raises(SecretError, match="can be read by others"):
        backup(home, tmp_path / "again")


# In another home


def test_uploaded_files_are_found_in_the_new_home(home: Path, tmp_path: Path) -> None:
    digest = "0123456789abcdef"
    write(home / UPLOADS / digest / "rows.jsonl", "{}")
    task = {
        "train": [f"/a/link/{UPLOADS}/{digest}/rows.jsonl"],
        "other": f"/x/{UPLOADS}/{'f' * 16}/y",
    }
    config = home / "searches" / "tiny" / "config.yaml"
    config.write_text(dump_yaml({"name": "tiny", "task": task}))
    backup(home, tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "new")
    found = read_yaml(tmp_path / "new" / "searches" / "tiny" / "config.yaml").data["task"]
    assert found["train"] == [str(tmp_path / "new" / UPLOADS / digest / "rows.jsonl")]
    assert Path(found["train"][0]).exists()
    assert found["other"] == task["other"], "which the backup did not hold"
