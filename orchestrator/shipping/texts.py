"""What runs and versions say of themselves in short texts: tags, params, a readable search file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from orchestrator.tracking import without_credentials

TAG_CHARS = 1000
SHOWN_METRICS = ("val_ood/exact_match", "val_id/exact_match", "cost/extra_tokens_pct")


def version_tags(
    uid: str, strategy: str, objective: str, metrics: Mapping[str, float | None]
) -> dict[str, str]:
    """What a person chooses by, on the version itself."""
    tags = {"trial_uid": uid, "strategy": strategy}
    for name in dict.fromkeys((objective, *SHOWN_METRICS)):
        value = metrics.get(name)
        if value is not None:
            tags[name] = f"{value:.4g}"
    return tags


def without_password(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The search file as others may read it in the store."""
    tracking = dict(config.get("tracking") or {})
    if not tracking.get("uri"):
        return config
    tracking["uri"] = without_credentials(tracking["uri"], tracking["uri"])
    return {**config, "tracking": tracking}


def search_id(search: str, time: float) -> str:
    """What tells a search, begun at a time, from others of its name."""
    return hashlib.sha256(f"{search} {time!r}".encode()).hexdigest()[:16]


def short_texts(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Short texts for params and tags; strings as they are, the rest as JSON."""
    return {
        prefix + key: (value if isinstance(value, str) else json.dumps(value))[:TAG_CHARS]
        for key, value in values.items()
    }
