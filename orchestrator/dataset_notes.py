"""What MLflow lists as the datasets of a search: one per split, each with a digest.

The digest covers all that decides the rows: the task's options, the data's seed, the split and
the digests of its files. Equal digests are equal rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

_DIGEST_CHARS = 32  # MLflow takes 36
_CONTEXTS = MappingProxyType({"train": "training", "val_id": "validation", "val_ood": "validation"})


class DatasetNote(NamedTuple):
    """One split, in MLflow's words; `source` and `profile` are JSON."""

    name: str
    digest: str
    source_type: str
    source: str
    profile: str
    context: str


def dataset_notes(search: str, payload: Mapping[str, Any]) -> list[DatasetNote]:
    """The splits of a search's rows, each with the digest of all that decides its rows.

    Args:
        payload: of `search_started`.
    """
    config, data = payload["config"], payload.get("data") or {}
    task, seed = config.get("task") or {}, (config.get("data") or {}).get("seed")
    notes = []
    for split, rows in (data.get("rows") or {}).items():
        files = (data.get("sha256") or {}).get(split)
        decided_by = {"task": task, "data_seed": seed, "split": split, "sha256": files}
        text = json.dumps(decided_by, sort_keys=True)
        notes.append(
            DatasetNote(
                name=f"{search}/{split}",
                digest=hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS],
                source_type="local" if files else "code",
                source=text,
                profile=json.dumps({"rows": rows}),
                context=_CONTEXTS.get(split, "test"),
            )
        )
    return notes
