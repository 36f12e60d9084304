"""Whether an engine's machine runs what the driver runs.

Another version of the project, of torch or of transformers gives other numbers, or none, and
images go stale; so an engine tells its versions before it is used, and one that differs is
refused with the remedy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from trainable.artifact import versions

_PACKAGES = ("trainable", "search_spaces", "orchestrator")
_COMPARED = ("code", "latentune", "python", "torch", "transformers")
_CODE_DIGITS = 12


def own_versions() -> dict[str, str]:
    """What this process runs; `code` is a digest of the project's own modules."""
    return {**versions(), "code": code_digest()}


def code_digest() -> str:
    """A digest of the project's modules, so that a stale copy of the same version shows."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:_CODE_DIGITS]


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """What differs, one line each; patches of Python and builds of torch may differ."""
    return [
        f"{name}: {theirs.get(name, 'unknown')} there, {ours[name]} here"
        for name in _COMPARED
        if _compared(name, theirs.get(name, "unknown")) != _compared(name, ours[name])
    ]


def refusal(node: str, found: list[str]) -> str:
    """What a person is told, and what to do."""
    return (
        f"node {node} runs other versions ({'; '.join(found)}): no engine is started there. "
        "Bring its image or environment to the driver's versions, and restart its Ray; "
        "`latentune doctor` lists all nodes"
    )


def _compared(name: str, version: str) -> str:
    if name == "python":
        return ".".join(version.split(".")[:2])
    return version.partition("+")[0]  # +cpu and +cu130 are one torch
