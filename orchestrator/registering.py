"""`latentune register`: any trial's latents become a version, and perhaps an alias's.

A search registers the trials that ran to the full budget by itself; this is for those that were
cut early, and for moving an alias without the UI.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.choice import choose
from orchestrator.registry import LINES_TAG, MANIFEST_TAG, locate, open_store
from orchestrator.results import SCHEMA_VERSION, Record


class Registration(Record):
    """A version of a search's registered model."""

    schema_version: int = SCHEMA_VERSION
    name: str
    version: int
    trial_uid: str
    strategy: str
    alias: str | None


def register_trial(
    name: str, trial: int, *, home: Path, alias: str | None = None, tracking_uri: str | None = None
) -> Registration:
    """Register a trial's latents, and point an alias at them where one is given.

    Raises:
        SearchNotFoundError: for a search or trial that the store lacks, one that handed over no
            latents, or what can be no alias.
        ManifestError: where the store's digest is not one of this search.
        TrackingError: where the store cannot be reached.
    """
    choice = choose(name, trial=trial)
    if alias is not None:
        choose(choice.name, alias=alias)  # or it is none
    with open_store(home, choice.name, tracking_uri) as (client, _):
        from orchestrator.model_versions import ensure_version

        stored = locate(client, choice, home)
        assert stored.run is not None  # it was looked for by trial
        tags = stored.run.data.tags
        strategy, uid = tags.get("strategy", "unknown"), tags["trial_uid"]
        files, run_id = stored.files, stored.run.info.run_id
        named = {MANIFEST_TAG: files.manifest, LINES_TAG: files.lines}
        named |= {"trial_uid": uid, "strategy": strategy}
        version = ensure_version(client, choice.name, files.source, run_id, named)
        if alias is not None:
            client.set_registered_model_alias(choice.name, alias, version)
    return Registration(
        name=choice.name, version=int(version), trial_uid=uid, strategy=strategy, alias=alias
    )
