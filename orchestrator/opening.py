"""Open a search: refuse what cannot be run or gone on with, find its ledger, name its engine."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna

from orchestrator.config import SearchConfig, config_differences, load_search
from orchestrator.costs import LayoutCosts
from orchestrator.errors import LedgerError, SearchExistsError, SearchLockedError
from orchestrator.events import EventLog, read_events
from orchestrator.first_trials import start_points
from orchestrator.folders import SearchFolder
from orchestrator.ledger import Ledger, no_limits, storage_url
from orchestrator.sampling import sampler_of
from orchestrator.stopping import rule_of
from orchestrator.study.owner import forget_study
from orchestrator.study.place import read_place
from orchestrator.study.storage import Fence, no_fence
from orchestrator.study.wal_tail import read_wal_tail
from search_spaces import PRESETS, enumerate_configs
from trainable.trial import TrialConfig

logger = logging.getLogger(__name__)

_NOT_OF_ONE_ENGINE = ("concurrent_trials", "count", "gpus", "step_timeout_s")


def open_ledger(
    config: SearchConfig,
    folder: SearchFolder,
    costs: LayoutCosts | None = None,
    fence: Fence = no_fence,
) -> Ledger:
    """Open or create a search's study.

    Args:
        fence: as `driver_lock` gave it.

    Raises:
        LedgerError: for a study that cannot be opened, is another search's, or was lost.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tell_torn_tail(folder.study)
    place = read_place(folder.path)
    if place is None and not folder.study.exists() and has_begun(folder):
        raise _lost_ledger(folder, str(folder.study))  # before a new file is in its way
    ledger = Ledger(
        storage=storage_url(folder.path),
        name=config.name,
        space=config.space.build(),
        baselines=baseline_configs() if config.space.baselines else [],
        sampler=sampler_of(config.sampler),
        rule=rule_of(config.stopping, config.budget.steps, config.name),
        objective=config.objective,
        stopping_metric=config.stopping.metric or config.objective,
        trials=config.budget.trials,
        steps=config.budget.steps,
        grid=config.grid(),
        tradeoffs=config.tradeoffs,
        start=start_points(config),
        costs=no_limits if costs is None else costs.against_limits,
        fence=fence,
        owner=None if place is None else place.id,
    )
    if place is not None and not ledger.all() and has_begun(folder):
        ledger.close()
        raise _lost_ledger(folder, place.url)
    return ledger


def _lost_ledger(folder: SearchFolder, where: str) -> LedgerError:
    return LedgerError(
        f"search {folder.name!r} has begun, its event log tells of trials, but its ledger in "
        f"{where} is gone: restore it from a copy, or remove {folder.path} to begin again"
    )


def tell_torn_tail(study: Path) -> None:
    """Say what a crash left unfinished in a SQLite ledger, before SQLite drops it."""
    torn = read_wal_tail(study).torn
    if torn:
        logger.warning(
            "%s ended in %d bytes of a write that was never finished: the ledger goes on from the "
            "last whole one; what was reported since is trained again", study, torn,
        )  # fmt: skip


def baseline_configs() -> list[TrialConfig]:
    """The fixed points of comparison, in order."""
    return [TrialConfig.from_dict(c.config) for c in enumerate_configs(PRESETS["baselines"]())]


def engine_options(config: SearchConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an engine is made of: the base model's options and the engine's own."""
    engine, base = config.engine, config.base_model.model_dump(mode="json")
    options = engine.model_dump(mode="json", exclude=set(_NOT_OF_ONE_ENGINE))
    options["threads"] = options["threads"] or (1 if engine.deterministic else None)
    if (engine.gpus or 0) > 1 and base["device"] != "cpu":
        base |= {"device_map": base["device_map"] or "auto", "device": "auto"}
    return base, options


def check_base_model(config: SearchConfig) -> None:
    """Refuse, before anything is written, a base model that cannot be used."""
    if config.base_model.path != "bundled":
        # transformers takes seconds to import; the bundled model needs no check.
        from trainable.base_model.loading import check_base

        check_base(**config.base_model.model_dump(mode="json"))


def check_same(config: SearchConfig, folder: SearchFolder) -> None:
    """A search's name stands for one configuration; its budget alone may change."""
    if folder.config.exists():
        differences = config_differences(load_search(folder.config), config)
        refuse_differences(config.name, differences)


def refuse_differences(name: str, differences: Sequence[str]) -> None:
    """Raise SearchExistsError where there is any difference."""
    if differences:
        listed = "\n".join(f"  {line}" for line in differences)
        raise SearchExistsError(
            f"search {name!r} exists with another configuration:\n{listed}\n"
            f"give this one another name, or remove the old one with `latentune rm {name}`"
        )


def has_begun(folder: SearchFolder) -> bool:
    """Whether any trial of a search has been told of."""
    return folder.events.exists() and any(
        event.type == "trial_started" for event in read_events(folder.events)
    )


@contextmanager
def leaving_nothing_unbegun(folder: SearchFolder, fence: Fence) -> Iterator[None]:
    """Remove a new search that an error ends before its first trial.

    A corrected file of the same name must not be refused. Under the search's lock alone: what
    another driver makes meanwhile is its own, and so is all of it once that one took over.

    Args:
        fence: as `driver_lock` gave it.
    """
    new = not any(path.exists() for path in (folder.config, folder.study, folder.events))
    try:
        yield
    except SearchLockedError:
        raise
    except BaseException:
        if new and _is_held(fence) and not has_begun(folder):
            with suppress(LedgerError):  # what was wrong is to be said
                forget_study(folder.path, folder.name)
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


def _is_held(fence: Fence) -> bool:
    """Whether a search is this driver's still; not where nobody can tell."""
    try:
        fence()
    except (SearchLockedError, LedgerError):
        return False
    return True


def state_told(events: EventLog) -> str | None:
    """How the last run of a search ended; None while that has not been told."""
    told = [e for e in events.read() if e.type in ("search_started", "search_ended")]
    if not told or told[-1].type != "search_ended":
        return None
    return str(told[-1].payload["state"])


def is_over(events: EventLog) -> bool:
    """Whether the end has been told; a driver that died at the very end left it to us."""
    return state_told(events) not in (None, "interrupted", "spent")
