"""Pull what was picked: from the registry to latents in memory."""

from __future__ import annotations

from pathlib import Path

from orchestrator.folders import home_folder
from orchestrator.registry import download
from trainable.latents import LatentTokens


def pull(
    name: str,
    *,
    alias: str | None = None,
    version: int | None = None,
    trial: int | None = None,
    to: str | Path | None = None,
    home: str | Path | None = None,
    tracking_uri: str | None = None,
) -> LatentTokens:
    """Fetch a search's registered latents, verified against their digest.

    Args:
        name: the search's name, or `NAME@alias`, `NAME@v3`, `NAME@trial-7`.
        alias: which alias; default the champion, else the candidate with a warning.
        version: a registered version's number instead of an alias.
        trial: a trial's number instead of either; it need not be registered.
        to: the folder to write; default one under LATENTUNE_HOME, named by the content.
        home: LATENTUNE_HOME.
        tracking_uri: the MLflow store; default as for searches.

    Raises:
        SearchNotFoundError, ManifestError, TargetExistsError, TrackingError: as
            `orchestrator.registry.download`.
        ArtifactError: if the files are not what an artifact folder holds.
    """
    folder = download(
        name,
        alias=alias,
        version=version,
        trial=trial,
        to=None if to is None else Path(to),
        home=home_folder(home),
        tracking_uri=tracking_uri,
    )
    return LatentTokens.load(folder)
