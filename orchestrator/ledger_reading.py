"""Read the ledger of a search that another process may be running."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna

from orchestrator.errors import LedgerError, SearchNotFoundError
from orchestrator.ledger_trials import LedgerTrial, read_trials
from orchestrator.study.place import storage_url
from orchestrator.study.storage import LedgerStorage
from orchestrator.study.version import check_version


def read_ledger(search_dir: Path, name: str) -> list[LedgerTrial]:
    """The trials of a search that another process may be running. Raises as `read_study`."""
    with reading_study(search_dir, name) as study:
        return list(read_trials(study))


def read_study(search_dir: Path, name: str) -> optuna.Study:
    """A study to read from once. Raises as `reading_study`."""
    with reading_study(search_dir, name) as study:
        return study


@contextmanager
def reading_study(search_dir: Path, name: str) -> Iterator[optuna.Study]:
    """The study of a search that another process may be running, for reading inside.

    Raises:
        SearchNotFoundError: if its study does not exist yet.
        LedgerError: if it is damaged, or a newer version wrote it.
    """
    try:
        storage = LedgerStorage(storage_url(search_dir), reading=True)
        with storage.said():
            yield _load(storage, name)
    except LedgerError as error:
        raise LedgerError(f"the study of search {name!r} cannot be read: {error}") from None


def _load(storage: LedgerStorage, name: str) -> optuna.Study:
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        raise SearchNotFoundError(
            f"search {name!r} is only just being created: try again in a moment"
        ) from None
    check_version(study)
    return study
