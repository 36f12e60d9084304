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


def check_told(folder: SearchFolder, manifest: str, uid: str | None, what: str) -> None:
    """Refuse a digest that the search's event log does not tell of, where that log is here.

    Args:
        folder: the search's, which may be on another machine.
        manifest: the digest that the store has for what is pulled.
        uid: of the trial that the store says handed it over; None where it does not say.
        what: is pulled.

    Raises:
        ManifestError: where the log does not tell that this trial did.
    """
    if not folder.events.exists():
        return
    told = told_manifests(read_events(folder.events))
    if uid is None or manifest not in told.get(uid, ()):
        whose = "no trial is named" if uid is None else f"as trial {uid}'s"
        raise ManifestError(
            f"{what} has manifest {manifest} in the tracking store ({whose}), but the event log of "
            f"{folder.path} tells of no such folder: its tag was changed, or it is from an earlier "
            "search of that name; to trust the store alone, pull with LATENTUNE_HOME set to "
            "another folder"
        )
