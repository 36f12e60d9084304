"""Disk space: what a search will write, whether that fits, and how it ends where it does not.

before anything is loaded   can LATENTUNE_HOME be written at all?
before anything is spent    what the search will write, against what is free
while it runs               little is left: it pauses, every state still saved
a write finds no space      it ends; the last committed state is what it goes on from
"""

from __future__ import annotations

import logging
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import HomeError, chain
from orchestrator.estimate import sample_trials
from orchestrator.opening import baseline_configs
from orchestrator.search_config import SearchConfig
from orchestrator.tracking import is_server
from trainable.errors import DiskFullError
from trainable.files import free_bytes, full_disk, is_full, shown_bytes

logger = logging.getLogger(__name__)

RESERVE = 8_000_000  # left free, so that a search that pauses can still write how it stands
_BLOCK = 4096
_FIXED = 6_000_000  # the ledger's and MLflow's tables, logs, a report with figures
_CURVE_POINT, _REPORT, _TRIAL = 24, 3_000, 24_000  # of the event log and the ledger, in bytes
_RUN = 70_000  # in MLflow's own database, with its index
_TEXTS = 20_000  # of an artifact folder
_SQLITE_FULL, _SQLITE_IO = 13, 10


def check_writable(home: Path) -> None:
    """Refuse, in an instant, a LATENTUNE_HOME that cannot be written.

    Raises:
        HomeError: where it cannot.
    """
    folder = next(path for path in (home, *home.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        raise HomeError(
            f"LATENTUNE_HOME: {home} cannot be written ({error.strerror}): set it to a folder on a "
            "disk that this machine may write"
        ) from None


def disk_need(config: SearchConfig, hidden_size: int, trials: int, uri: str) -> int:
    """About how many bytes a search will write; more rather than less.

    Args:
        config: the search.
        hidden_size: the base model's width.
        trials: that are still to be trained, without baselines.
        uri: where tracking goes; a server keeps what it gets elsewhere.
    """
    baselines = baseline_configs() * config.space.baselines
    sample = sample_trials(config, baselines)
    rows = max((trial.strategy.latent_count for trial in sample.all), default=0)
    latents = 4 * rows * hidden_size
    members = 0
    if config.confirm.enabled:  # each arm has about two controls, with a grid of learning rates
        arms = 3 * config.confirm.top
        members = arms * (config.confirm.seeds + len(config.confirm.control_lr_factors))
    artifact = latents + _TEXTS
    states = 2 * (3 * latents + _BLOCK)
    told = config.budget.steps * _CURVE_POINT + len(config.rungs()) * _REPORT + _TRIAL
    stored = 0 if is_server(uri) else artifact + _RUN
    return _FIXED + (trials + len(baselines) + members) * (states + artifact + told + stored)


def check_space(folder: Path, need: int) -> None:
    """Refuse a search that will fill the disk, and warn of one that may.

    Raises:
        DiskFullError: where less is free than it needs.
    """
    free = free_bytes(folder)
    told = (
        f"this search will write about {shown_bytes(need)} under {folder}, where "
        f"{shown_bytes(free)} are free"
    )
    if need + RESERVE > free:
        raise DiskFullError(
            f"{told}, of which {shown_bytes(RESERVE)} are to stay free: free some space, set "
            "LATENTUNE_HOME to another disk, or lower budget.trials"
        )
    if 2 * need > free:
        logger.warning("%s: that is more than half", told)


def nearly_full(folder: Path) -> str | None:
    """Why a search should pause now, while it can still write how it stands; None if it need not.

    Returns:
        A message for a person.
    """
    free = free_bytes(folder)
    if free >= RESERVE:
        return None
    return (
        f"disk full: {shown_bytes(free)} are left under {folder}, and a search keeps "
        f"{shown_bytes(RESERVE)} to end well; free some space and run the same command again: it "
        "goes on from what was stored last"
    )


@contextmanager
def naming_any_full_disk(folder: Path) -> Iterator[None]:
    """Turn whatever a full disk made of a search, such as SQLite's error, into one that says so.

    Raises:
        DiskFullError: in place of such an error.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        found = next((one for one in chain(error) if _is_full(one, folder)), None)
        if found is None:
            raise
        named = found if isinstance(found, DiskFullError) else full_disk(folder)
        raise DiskFullError(str(named)) from error


def _is_full(error: BaseException, folder: Path) -> bool:
    if not isinstance(error, sqlite3.Error):
        return is_full(error)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # an I/O error may be a full disk's, too
    return code == _SQLITE_FULL or (code == _SQLITE_IO and free_bytes(folder) < _BLOCK)
