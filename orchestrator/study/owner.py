"""Whose study a database holds: many folders may share one, and names may meet there."""

from __future__ import annotations

from pathlib import Path

import optuna

from orchestrator.errors import LedgerError
from orchestrator.study.lease import end_lease
from orchestrator.study.place import read_place, storage_url
from orchestrator.study.storage import LedgerStorage

_ATTRIBUTE = "search_folder"


def check_owner(study: optuna.Study, owner: str | None) -> None:
    """Refuse the study of another folder's search of the same name.

    Args:
        owner: the folder's id; None for one that has its ledger in itself.

    Raises:
        LedgerError: with the remedy.
    """
    if owner is None:
        return
    found = study.user_attrs.get(_ATTRIBUTE)
    if found is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(_ATTRIBUTE, owner)
    elif found != owner:
        raise LedgerError(
            f"the database holds a search {study.study_name!r} that was begun in another folder: "
            "set LATENTUNE_HOME to the one where it was begun, or give this search another name"
        )


def forget_study(search_dir: Path, name: str) -> bool:
    """Remove a search's study from its database, if that is ours; a file goes with its folder.

    Its lease stays: whoever holds it gives it back once the folder is gone, too.

    Returns:
        Whether there was one.

    Raises:
        LedgerError: if the database cannot be used.
    """
    place = read_place(search_dir)
    if place is None:
        return False
    storage = LedgerStorage(storage_url(search_dir), reading=True)
    with storage.said():
        names = {study.study_name: study for study in storage.get_all_studies()}
        mine = name in names and names[name].user_attrs.get(_ATTRIBUTE) == place.id
        if mine:
            optuna.delete_study(study_name=name, storage=storage)
    return mine


def forget_search(search_dir: Path, name: str) -> None:
    """As `forget_study`, for a search that nobody runs: a driver that hung has lost it then."""
    if forget_study(search_dir, name):
        end_lease(storage_url(search_dir), name)
