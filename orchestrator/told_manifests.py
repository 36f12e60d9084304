"""Which artifact folders a search's own event log tells of: no tag in the store can forge that."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.errors import ManifestError
from orchestrator.events import Event, read_events
from orchestrator.folders import SearchFolder

_TELLING = ("trial_ended", "candidate", "champion")


def told_manifests(events: Iterable[Event]) -> dict[str, list[str]]:
    """The digests of all folders that each trial handed over, the last one last."""
    told: dict[str, list[str]] = {}
    for event in events:
        digest = event.payload.get("manifest_sha256") if event.type in _TELLING else None
        if digest is not None and event.trial_uid is not None:
            told.setdefault(event.trial_uid, []).append(str(digest))
    return told


def check_told(folder: SearchFolder, manifest: str, trial: int | None, what: str) -> None:
    """Refuse a digest that the search's event log does not know, where that log is here.

    Args:
        folder: the search's, which may be on another machine.
        manifest: the digest that the store has for what is pulled.
        trial: whose it should be; None for any of the search's.
        what: is pulled.

    Raises:
        ManifestError: where the log does not know it.
    """
    if not folder.events.exists():
        return
    told = told_manifests(read_events(folder.events))
    known = [one for uid in told for one in told[uid] if trial in (None, _number(folder, uid))]
    if manifest not in known:
        raise ManifestError(
            f"{what} has manifest {manifest} in the tracking store, but the event log of "
            f"{folder.path} tells of no such folder: its tag was changed, or it is from an earlier "
            "search of that name; to trust the store alone, pull with LATENTUNE_HOME set to "
            "another folder"
        )


def _number(folder: SearchFolder, uid: str) -> int:
    tail = uid.removeprefix(f"{folder.name}-")
    return int(tail) if tail.isdecimal() else -1
