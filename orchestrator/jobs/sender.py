"""Which latentune sends a search, and whether the head has the same."""

from __future__ import annotations

import hashlib
import logging
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from orchestrator.errors import ClusterError
from orchestrator.record import Record

logger = logging.getLogger(__name__)

_PACKAGES = ("trainable", "search_spaces", "orchestrator")


class Sender(Record):
    """A latentune.

    Args:
        latentune: its version.
        code: a digest of its source.
    """

    latentune: str
    code: str


def this_sender() -> Sender:
    """The latentune that runs here."""
    try:
        version = metadata.version("latentune")
    except metadata.PackageNotFoundError:  # run from its sources
        version = "unknown"
    return Sender(latentune=version, code=_code_digest())


def check_sender(sender: Sender) -> None:
    """Refuse, on the head, a search of another version; warn where only the source differs.

    Raises:
        ClusterError: with both versions.
    """
    here = this_sender()
    if sender.code == here.code:
        return
    if "unknown" not in (sender.latentune, here.latentune) and sender.latentune != here.latentune:
        raise ClusterError(
            f"the head has latentune {here.latentune}, the search comes from {sender.latentune}: "
            "install the same here and there, or submit with --ship-code"
        )
    logger.warning("the head's latentune has another source than the sender's, at one version")


def package_folders() -> list[Path]:
    """Where latentune's packages lie."""
    specs = [find_spec(name) for name in _PACKAGES]
    return [Path(spec.origin).parent for spec in specs if spec is not None and spec.origin]


def _code_digest() -> str:
    digest = hashlib.sha256()
    for package in package_folders():
        for path in sorted(package.rglob("*.py")):
            digest.update(path.relative_to(package.parent).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
