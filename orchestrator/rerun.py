"""`latentune rerun`: train one trial of a search again, and see whether it is the same.

    reruns/UID/rerun.json     what `--json` prints
    reruns/UID/latents/       the latents that came out, as an artifact folder

The trial is trained alone, from its init, on the same rows in the same order; the ledger is only
read. In the search it shared its forwards with other trials, so the same bits are to be expected
only of a search with `engine.deterministic: true`, on the same kind of CPU. Otherwise rounding
grows over the steps, and what is compared is compared within a tolerance.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from orchestrator.config import SearchConfig, load_search
from orchestrator.console import print_line
from orchestrator.errors import SearchExistsError, SearchNotFoundError
from orchestrator.files import write_atomic
from orchestrator.folders import SearchFolder
from orchestrator.ledger import LedgerTrial, TrialStatus, read_ledger
from orchestrator.opening import engine_options
from orchestrator.reproduction import Reproduction, processor
from orchestrator.results import SCHEMA_VERSION, Record
from orchestrator.search_data import data_differences, read_data
from trainable.artifact import Artifact, versions
from trainable.base_model.loading import BaseModel, load_base
from trainable.data import SEARCH_SPLITS
from trainable.engine import Engine, TrialSpec
from trainable.errors import FingerprintError
from trainable.loop import EngineLoop, Report
from trainable.metrics import DECODING_TIME
from trainable.tasks import build_task

LATENTS_TOLERANCE, SCORE_TOLERANCE = 0.02, 0.05
_HISTORY = "train/loss"  # a mean over steps since the last report: an interrupted trial's differs


class Compared(Record):
    """A score as the search recorded it, and as it came out again."""

    recorded: float | None
    again: float | None


class Tolerance(Record):
    """How far a rerun may be off, both at most.

    Args:
        latents: the largest difference, relative to the largest latent.
        scores: the largest difference of any score that lies between 0 and 1.
    """

    latents: float
    scores: float


class Rerun(Record):
    """A trial, trained again.

    Args:
        step: optimiser steps of the trial.
        deterministic: whether the same bits are asked for: the tolerance is then 0.
        bit_equal: whether the latents are, bit by bit.
        within: whether latents and scores are within the tolerance.
        notes: what differs between then and now, and may explain a difference.
        folder: where the new latents are.
    """

    schema_version: int = SCHEMA_VERSION
    trial_uid: str
    strategy: str
    step: int
    deterministic: bool
    bit_equal: bool
    latents_difference: float
    score_difference: float
    tolerance: Tolerance
    within: bool
    scores: dict[str, Compared]
    notes: list[str]
    seconds: float
    folder: str


def rerun_trial(home: Path, name: str, number: int, tolerance: Tolerance | None = None) -> Rerun:
    """Train a trial of a search again, in a folder of its own, and compare.

    Args:
        tolerance: default 0 for a deterministic search, else the stated one.

    Raises:
        SearchNotFoundError: if there is no such search, or no such trial that has been scored.
        SearchExistsError: if the search's files have changed since.
        FingerprintError: if the base model has.
        BaseModelError, TaskError, ArtifactError: for what cannot be used any more.
    """
    began = time.monotonic()
    folder = SearchFolder.existing(home, name)
    config = load_search(folder.config)
    changed = data_differences(config, folder)
    if changed:
        raise SearchExistsError(f"the rows of search {name!r} have changed: {'; '.join(changed)}")
    trial = _scored_trial(folder, name, number)
    recorded = Artifact.load(folder.artifact(folder.uid(number)))
    before = _reproduction(folder)
    with _numerics(config, before):
        base = load_base(**config.base_model.model_dump(mode="json"))
        _refuse_other_base(base, recorded)
        scored, last = _train(config, base, trial, home)
    found = Artifact(
        latents=last.state.latents,
        config=trial.config,
        base_model=base.describe(),
        task=recorded.task,
        metrics=scored.metrics,
        provenance={"search": name, "trial_uid": folder.uid(number), "rerun": True},
    )
    target = folder.path / "reruns" / folder.uid(number)
    found.save(target / "latents")
    given = tolerance or default_tolerance(config)
    result = _compare(trial, recorded, found, given, config.engine.deterministic).model_copy(
        update={
            "notes": _notes(recorded, before),
            "seconds": time.monotonic() - began,
            "folder": str(target / "latents"),
        }
    )
    write_atomic(target / "rerun.json", result.model_dump_json(indent=1).encode())
    return result


def default_tolerance(config: SearchConfig) -> Tolerance:
    """Nothing for a deterministic search; else what rounding may grow to."""
    if config.engine.deterministic:
        return Tolerance(latents=0.0, scores=0.0)
    return Tolerance(latents=LATENTS_TOLERANCE, scores=SCORE_TOLERANCE)


def _scored_trial(folder: SearchFolder, name: str, number: int) -> LedgerTrial:
    trials = {trial.number: trial for trial in read_ledger(folder.path, name)}
    usable = [
        n
        for n, trial in trials.items()
        if trial.reports and trial.status not in (TrialStatus.RUNNING, TrialStatus.FAILED)
    ]
    if number not in usable:
        raise SearchNotFoundError(
            f"--trial {number} of {name!r} has no scores to compare with; trials that have: "
            f"{', '.join(map(str, usable)) or 'none'}"
        )
    return trials[number]


def _train(
    config: SearchConfig, base: BaseModel, trial: LedgerTrial, home: Path
) -> tuple[Report, Report]:
    """Train as the search did, report by report.

    Returns:
        The report at the trial's last score, and the one at its last step.
    """
    source = read_data(config, home).source
    _, options = engine_options(config)
    del options["threads"]  # set already
    engine = Engine(base, compiled=options.pop("compile"), **options)
    cache = Path(source.cache)
    task = build_task(source.task, source.seed, tokenizer=base.tokenizer, cache=cache)
    limits: dict[str, Any] = {"max_tokens": source.max_tokens, "long_rows": source.long_rows}
    data = engine.encode(task, **limits)
    uid = f"rerun-{trial.number}"
    engine.join(TrialSpec(uid, trial.config, config.budget.steps, source.seed, **limits), data)
    loop = EngineLoop(engine)
    try:
        scored_at = max(trial.reports)
        for rung in (rung for rung in config.rungs() if rung < scored_at):
            loop.train(uid, rung, [])
        scored = loop.train(uid, scored_at, [s for s in SEARCH_SPLITS if s in data.splits])
        last = scored if trial.step <= scored_at else loop.train(uid, trial.step, [])
    finally:
        loop.close()
    return scored, last


@contextmanager
def _numerics(config: SearchConfig, before: Reproduction | None) -> Iterator[None]:
    """The engine's own threads and algorithms, and afterwards those that were there."""
    threads, algorithms = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    recorded = config.engine.threads or (1 if config.engine.deterministic else None)
    if recorded is None and before is not None:
        recorded = before.threads
    try:
        torch.set_num_threads(recorded or os.cpu_count() or 1)  # as an engine's
        torch.use_deterministic_algorithms(config.engine.deterministic)
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(algorithms)


def _refuse_other_base(base: BaseModel, recorded: Artifact) -> None:
    was = recorded.base_model.get("fingerprint")
    if base.fingerprint != was:
        raise FingerprintError(
            f"the trial was trained on the base model with fingerprint {was}, but {base.path} has "
            f"{base.fingerprint} now: a rerun on another model compares nothing"
        )


def _compare(
    trial: LedgerTrial, recorded: Artifact, found: Artifact, given: Tolerance, deterministic: bool
) -> Rerun:
    left_out = {DECODING_TIME} if trial.attempts == 1 else {DECODING_TIME, _HISTORY}
    names = [name for name in trial.metrics if name not in left_out]
    scores = {
        name: Compared(recorded=trial.metrics[name], again=found.metrics.get(name))
        for name in names
    }
    latents_difference = relative_difference(found.latents, recorded.latents)
    score_difference = max(map(_difference, scores.values()), default=0.0)
    return Rerun(
        trial_uid=str(found.provenance["trial_uid"]),
        strategy=trial.config.strategy.short_name,
        step=trial.step,
        deterministic=deterministic,
        bit_equal=found.latents.tobytes() == recorded.latents.tobytes(),
        latents_difference=latents_difference,
        score_difference=score_difference,
        tolerance=given,
        within=latents_difference <= given.latents and score_difference <= given.scores,
        scores=scores,
        notes=[],
        seconds=0.0,
        folder="",
    )


def relative_difference(found: Any, recorded: Any) -> float:
    """The largest difference over the largest value; 0 of two that are empty."""
    if not recorded.size:
        return 0.0
    largest = float(np.abs(recorded).max())
    return float(np.abs(found - recorded).max()) / (largest or 1.0)


def _difference(score: Compared) -> float:
    """The difference; relative where a score is above 1, such as a loss or a percentage."""
    if score.recorded is None or score.again is None:
        return 0.0 if score.recorded == score.again else float("inf")
    return abs(score.again - score.recorded) / max(1.0, abs(score.recorded))


def _reproduction(folder: SearchFolder) -> Reproduction | None:
    if not folder.reproduction.exists():
        return None
    return Reproduction.model_validate_json(folder.reproduction.read_text())


def _notes(recorded: Artifact, before: Reproduction | None) -> list[str]:
    if before is None:
        return ["the search has no reproduce.json yet: it has not ended a run"]
    now: Mapping[str, str] = versions()
    notes = [
        f"{name} is {now[name]} now, was {before.versions[name]}"
        for name in now
        if before.versions.get(name, now[name]) != now[name]
    ]
    if before.processor != processor():
        notes.append(f"the processor is {processor()} now, was {before.processor}")
    return notes


def print_rerun(console: Console, rerun: Rerun) -> None:
    """The comparison for people."""
    table = Table("score", "recorded", "again", title=f"{rerun.trial_uid}, {rerun.strategy}")
    for name, score in rerun.scores.items():
        if name.count("/") == 1:
            table.add_row(name, *map(_shown, (score.recorded, score.again)))
    console.print(table)
    bits = "bit-equal" if rerun.bit_equal else f"off by {rerun.latents_difference:.1e}, relative"
    verdict = "the same" if rerun.within else "NOT the same"
    lines = [
        f"latents after {rerun.step} steps: {bits}; largest difference of a score "
        f"{rerun.score_difference:.3g}",
        f"{verdict}, within {rerun.tolerance.latents:g} of the latents and "
        f"{rerun.tolerance.scores:g} of a score ({rerun.seconds:.0f} s)",
        *rerun.notes,
        f"its latents are in {rerun.folder}",
    ]
    for line in lines:
        print_line(console, line)


def _shown(score: float | None) -> str:
    return "-" if score is None else f"{score:.6g}"
