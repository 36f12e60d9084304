"""Whether latents in the store are those that the search itself handed over.

    version's tag manifest_sha256   anybody who may write to MLflow can change it
    event log of the search         its driver alone wrote it, on this machine

So where the search was run on this machine, its own log has the last word.
"""

from __future__ import annotations

import logging

from orchestrator.errors import EventLogError, ManifestError
from orchestrator.events import Event, read_events
from orchestrator.folders import SearchFolder
from orchestrator.manifest import manifest_sha256

logger = logging.getLogger(__name__)

_KEY = "manifest_sha256"


def refuse_unrecorded(folder: SearchFolder, manifest: str) -> None:
    """Refuse latents that this machine's record of the search does not know.

    Where the search was run elsewhere, or by a version that recorded no digests, nothing is known.

    Raises:
        ManifestError: if it knows others, and not these.
    """
    if not folder.events.exists():
        return
    try:
        told = [event for event in read_events(folder.events) if event.payload.get("artifact")]
    except EventLogError as error:
        logger.warning("%s cannot be compared with what is in MLflow: %s", folder.name, error)
        return
    known = {_digest(event, folder) for event in told}
    if not known or None in known or manifest in known:
        return
    raise ManifestError(
        f"MLflow names latents with manifest {manifest[:12]}… for {folder.name!r}, but the search "
        f"under {folder.path} never handed these over: a tag or an alias was changed by somebody, "
        "or they belong to an earlier search of this name. Look at the version in MLflow; to take "
        "it all the same, set LATENTUNE_HOME to a folder without this search"
    )


def _digest(event: Event, folder: SearchFolder) -> str | None:
    """What the log says, or the files where it says nothing; None where neither is there."""
    if found := event.payload.get(_KEY):
        return str(found)
    try:
        return manifest_sha256(folder.path / str(event.payload["artifact"]))
    except ManifestError:
        return None
