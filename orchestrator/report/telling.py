"""How a search's end comes by its report: written by a process of its own, then told as an event.

The driver has neither torch nor matplotlib in memory, and a figure that fails must not cost a
search its end: so the process may fail or take too long, which is said, and no more.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

from orchestrator.events import EventLog
from orchestrator.folders import SearchFolder
from orchestrator.report.confirmed import shown
from orchestrator.report.summary import note
from orchestrator.results import SearchResult

logger = logging.getLogger(__name__)

LONGEST_S = 300.0
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_FILES = ("report/report.html", "report/report.md")


def tell_report(events: EventLog, folder: SearchFolder, result: SearchResult) -> None:
    """Write the report, and tell the log of its files and of the note for the search's run."""
    if not _write(folder, result):
        logger.warning(
            "the report was not written (see %s); `latentune report %s` tries again",
            folder.path / "report.log",
            folder.name,
        )
    files = [file for file in _FILES if (folder.path / file).exists()]
    events.append("report", {"note": note(result, shown(result.confirmation)), "files": files})


def _write(folder: SearchFolder, result: SearchResult) -> bool:
    command = [sys.executable, "-m", "orchestrator.report", str(folder.path)]
    command += ["--state", result.state, "--tracking-uri", result.tracking_uri]
    path = os.pathsep.join(filter(None, [str(_PACKAGE_PARENT), os.environ.get("PYTHONPATH")]))
    with (folder.path / "report.log").open("wb") as log:
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter and module
                command,
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=LONGEST_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0
