"""Versions of the registered model that a search has: one per trained configuration.

    registered model = search
    ├── version 1   tags: manifest_sha256, trial_uid, strategy, scores     @candidate
    └── version 2   ...                                                    @champion

A version is found by the digest of its files before it is made, so that a trial that is told
again, or registered by hand, has one version. Who shall be pulled is an alias's business.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from orchestrator.registry import MANIFEST_TAG

EXISTS = frozenset({"RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"})


def ensure_version(
    client: MlflowClient, search: str, source: str, run_id: str, tags: Mapping[str, str]
) -> str:
    """Make a version of a search's model, or find it.

    Args:
        source: where the artifact folder is in the store.
        run_id: the trial's run.
        tags: of a new version; `manifest_sha256` tells which one it is.

    Returns:
        The version's number.
    """
    return find_version(client, search, tags[MANIFEST_TAG]) or _create(
        client, search, source, run_id, tags
    )


def find_version(client: MlflowClient, search: str, manifest: str) -> str | None:
    """The version that has these files; None where there is none."""
    query = f"name = '{search}' AND tags.{MANIFEST_TAG} = '{manifest}'"
    versions = client.search_model_versions(query)
    return min((str(v.version) for v in versions), key=int, default=None)


def _create(
    client: MlflowClient, search: str, source: str, run_id: str, tags: Mapping[str, str]
) -> str:
    try:
        client.create_registered_model(search)
    except MlflowException as error:
        if error.error_code not in EXISTS:
            raise
    version = client.create_model_version(
        search, source, run_id, tags=dict(tags), await_creation_for=0
    )
    return str(version.version)
