"""A command of the user's choice when a search has ended: a message, a pull, a shutdown.

It is told by its environment, runs without a shell, and cannot fail the search.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

TIMEOUT_S = 600.0
LOG_NAME = "on_end.log"


def tell_end(command: Sequence[str], folder: Path, state: str) -> bool:
    """Run the command and wait for it.

    Args:
        command: program and arguments; empty for none.
        folder: the search's; the command runs in it, and what it prints stays in `on_end.log`.
        state: `complete`, `spent`, `interrupted` or `failed`.

    Returns:
        Whether it ended well.
    """
    if not command:
        return True
    told = {
        "LATENTUNE_SEARCH": folder.name,
        "LATENTUNE_STATE": state,
        "LATENTUNE_RESULT": str(folder.absolute() / "result.json"),
    }
    try:
        with _log(folder) as log:
            done = subprocess.run(  # noqa: S603 - what the user wrote, word by word
                list(command), cwd=folder, env={**os.environ, **told}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, timeout=TIMEOUT_S, check=False,
            )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("tracking.on_end: %s did not run to its end: %s", command[0], error)
        return False
    if done.returncode:
        log_path = folder / LOG_NAME
        logger.warning(
            "tracking.on_end: %s ended with %d: see %s", command[0], done.returncode, log_path
        )
    return done.returncode == 0


def _log(folder: Path) -> IO[bytes]:
    """Where the command prints to; nowhere, where the disk is full."""
    try:
        return (folder / LOG_NAME).open("ab")
    except OSError:
        return Path(os.devnull).open("ab")
