"""A LATENTUNE_HOME with one search, an MLflow store, its artifacts and a secret, to back up."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.unit.ledgers import empty_study

PLACES = {
    "experiments": ["artifact_location"],
    "runs": ["artifact_uri"],
    "model_versions": ["source", "storage_location"],
    "logged_models": ["artifact_location"],
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    search = home / "searches" / "tiny"
    for name in ("config.yaml", "events.jsonl", "shipped.json", "lock", "control/stop",
                 "trials/tiny-0/00000060.safetensors", "artifacts/tiny-0/README.md"):  # fmt: skip
        write(search / name, name)
    (search / "study.db").write_bytes(empty_study())
    write(home / "mlartifacts" / "1" / "note.md", "note")
    write(home / "cache" / "records" / "rows", "rows")
    write(home / "secrets" / "mlflow_admin_password", "hidden")
    (home / "secrets" / "mlflow_admin_password").chmod(0o600)
    with closing(sqlite3.connect(home / "mlflow.db")) as store, store:
        for table, columns in PLACES.items():
            store.execute(f"create table {table} ({', '.join(columns)})")
            for place in (f"{home.as_uri()}/mlartifacts/1", "mlflow-artifacts:/1"):
                row = ", ".join([f"'{place}'"] * len(columns))
                store.execute(f"insert into {table} values ({row})")  # noqa: S608 - our own words
    return home


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
