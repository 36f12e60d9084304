"""Searches in a folder of their own, for tests: a small space, a ledger over its study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna

from orchestrator.config import SamplerConfig, SearchConfig, StoppingConfig
from orchestrator.folders import SearchFolder
from orchestrator.ledger import Ledger, storage_url
from orchestrator.sampling import sampler_of
from orchestrator.stopping import rule_of
from search_spaces import Space
from trainable.trial import TrialConfig

NAME = "tiny"
OBJECTIVE = "val_ood/exact_match"
RUNGS = (2, 4, 8)
START: dict[str, Any] = {"triggers": {"start": {"kind": "start", "m": 2}}}
AXES: dict[str, Any] = {
    "strategy": START,
    "optim": {"lr": {"float": {"low": 0.005, "high": 0.05, "log": True}}},
}
CONFIG: dict[str, Any] = {
    "name": NAME,
    "task": {"kind": "generation"},
    "space": {"axes": AXES, "baselines": False},
    "budget": {"trials": 4, "steps": RUNGS[-1]},
    "sampler": {"kind": "random"},
    "stopping": {"min_steps": RUNGS[0], "factor": 2},
}
BASELINES = [TrialConfig.from_dict({}), TrialConfig.from_dict({"strategy": START})]


@cache
def empty_study() -> bytes:
    """A study file with its tables: to make them takes half a second, to copy them nothing."""
    with TemporaryDirectory() as folder:
        optuna.storages.RDBStorage(storage_url(Path(folder)))
        return (Path(folder) / "study.db").read_bytes()


def open_ledger(
    folder: Path,
    *,
    axes: dict[str, Any] | None = None,
    baselines: int = 0,
    trials: int = 4,
    stopping: Any = "asha",
    sampler: SamplerConfig | None = None,
    objective: str = OBJECTIVE,
    stopping_metric: str | None = None,
    seed: int = 0,
    grid: Sequence[Mapping[str, Any]] = (),
    **options: Any,
) -> Ledger:
    """The ledger of a search; one that exists is opened again."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "study.db").exists():
        (folder / "study.db").write_bytes(empty_study())
    return Ledger(
        storage=storage_url(folder),
        name=NAME,
        space=Space(axes or AXES),
        baselines=BASELINES[:baselines],
        sampler=sampler_of(sampler or SamplerConfig(kind="random", seed=seed)),
        rule=rule_of(
            StoppingConfig(kind=stopping, min_steps=RUNGS[0], factor=2, startup_trials=2),
            RUNGS[-1],
            NAME,
        ),
        objective=objective,
        stopping_metric=stopping_metric or objective,
        trials=trials,
        steps=RUNGS[-1],
        grid=grid,
        **options,
    )


def search_folder(home: Path) -> SearchFolder:
    return SearchFolder.of(home, NAME)


def abandoned_search(home: Path) -> SearchFolder:
    """A search with one running trial, whose driver is gone."""
    folder = search_folder(home)
    with closing(open_ledger(folder.path)) as ledger:
        ledger.ask()
    folder.config.write_text(search_config().to_yaml())
    return folder


def search_config(**changed: Any) -> SearchConfig:
    """The configuration of the same search."""
    return SearchConfig.model_validate(CONFIG | changed)
