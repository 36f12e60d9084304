"""How a search stands or ended, read from its ledger: for people, for `--json`, for Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from optuna import Study
from pydantic import Field

from orchestrator.config import SearchConfig, load_search
from orchestrator.confirmation_record import (
    ConfirmationCost,
    ConfirmationEstimate,
    ConfirmationRecord,
    read_confirmation,
)
from orchestrator.engines.roster import EngineRecord, Roster, read_roster
from orchestrator.engines.waiting import WaitingRecord
from orchestrator.folders import SearchFolder
from orchestrator.ledger import LedgerTrial, Role, TrialStatus, read_trials, reading_study
from orchestrator.record import SCHEMA_VERSION as SCHEMA_VERSION
from orchestrator.record import Record as Record
from orchestrator.tracking import without_credentials
from orchestrator.tradeoffs import goodnesses, knee, pareto_front
from orchestrator.verdict_words import retold
from trainable.artifact import describe_strategy
from trainable.metrics import goodness

EXTRA_TOKENS = "cost/extra_tokens_pct"
IN_DISTRIBUTION, OUT_OF_DISTRIBUTION = "val_id/exact_match", "val_ood/exact_match"

# `spent`: a budget but that of trials has ended it; where that is raised, it goes on.
SearchState = Literal["complete", "spent", "interrupted", "failed", "running"]


class TrialRecord(Record):
    """One trial, for a table."""

    uid: str
    number: int
    strategy: str
    role: Role
    status: TrialStatus
    step: int
    metrics: dict[str, float]
    params: dict[str, Any]
    attempts: int
    reason: str | None
    failure: str | None = None


class TimeSplit(Record):
    """Where the seconds of one run went; those of several engines are added up.

    Args:
        idle_s: of engines that had trials, and none with a step to do: waiting for decisions.
        ask_s: to the sampler, for choosing configurations.
    """

    total_s: float
    train_s: float
    evaluate_s: float
    trial_steps: int
    idle_s: float = 0.0
    ask_s: float = 0.0

    @property
    def outside_s(self) -> float:
        """Everything but the engine: processes, Tune, Optuna, tracking; 0 beside several."""
        return max(0.0, self.total_s - self.train_s - self.evaluate_s - self.idle_s)


class SpentRecord(Record):
    """What a search has spent, in all its runs.

    Args:
        trials: of the space, baselines and infeasible ones not counted.
        infeasible: configurations that broke a limit; nothing was spent on them.
        steps: optimiser steps, of baselines too.
        tokens: trained on, latents included; None where no budget asks for them.
        time_s: the confirmation's included, as in GPU-hours and money.
        money: None without a price.
        confirm_s: of it, what the confirmation took.
        confirm_steps: the confirmation's optimiser steps, beside `steps`.
        over: the budgets that are spent.
    """

    trials: int
    infeasible: int
    steps: int
    tokens: int | None
    time_s: float
    gpu_hours: float
    money: float | None
    confirm_s: float = 0.0
    confirm_steps: int = 0
    over: list[str]


class Estimate(Record):
    """What a search, or what is left of it, was expected to cost before it began.

    Args:
        steps: optimiser steps, what early stopping leaves of them on average; without those of a
            baseline that has nothing to train.
        most_steps: if no trial were stopped.
        train_tokens: of training, latents included.
        score_tokens: of scoring at all rungs.
        seconds: in all, from the start of the command; None where nothing was measured, and so
            are those below.
        memory_bytes: that the engine had while it was measured.
        money: None without a price.
        confirmation: what comes on top, to confirm the winner; None where nobody will.
    """

    trials: int
    steps: float
    most_steps: int
    train_tokens: float
    score_tokens: float
    gpus: int
    seconds: float | None = None
    train_s: float | None = None
    score_s: float | None = None
    other_s: float | None = None
    memory_bytes: int | None = None
    device: str | None = None
    calibration_s: float | None = None
    gpu_hours: float | None = None
    money: float | None = None
    confirmation: ConfirmationEstimate | None = None


class OverlapRecord(Record):
    """How many rows of a split have a prompt that train has, and how many are a row of train."""

    prompts: int
    rows: int


class DataRecord(Record):
    """What is known of a search's rows.

    Args:
        rows: per split, without those that were dropped.
        dropped: per split, rows that are too long without any latent.
        overlap: per split, what of it stands in train as well.
        sha256: per split, the digests of its files; under `metrics`, of those with metrics of
            one's own.
        notes: what is odd and no error.
        example: one prompt.
    """

    rows: dict[str, int]
    dropped: dict[str, int] = Field(default={})
    overlap: dict[str, OverlapRecord] = Field(default={})
    sha256: dict[str, dict[str, str | None]] = Field(default={})
    notes: list[str] = Field(default=[])
    example: str | None = None


class SearchResult(Record):
    """How a search stands after a run.

    Args:
        data: what is known of its rows; None before they were read.
        best: uid of the best complete trial, by the objective; the candidate.
        artifact: its artifact folder.
        summary: its strategy in words.
        confirmation: what came of training its best again with fresh seeds; None before that.
        confirm_cost: what that took in this run; None where nothing was confirmed in it.
        tradeoffs: the objectives beside the first.
        front: with several objectives, the uids of complete trials that no other beats.
        knee: the front's best compromise.
        estimate: what this run was expected to take; None where nothing was left to do.
        engines: those that train its trials now; none while no driver runs it.
        waiting: why trials that are left do not run; None if none waits.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    state: SearchState
    objective: str
    tracking_uri: str
    best: str | None
    artifact: str | None
    summary: str | None
    trials: list[TrialRecord]
    data: DataRecord | None = None
    time: TimeSplit | None = None
    confirmation: ConfirmationRecord | None = None
    confirm_cost: ConfirmationCost | None = None
    tradeoffs: list[str] = Field(default=[])
    front: list[str] = Field(default=[])
    knee: str | None = None
    spent: SpentRecord | None = None
    estimate: Estimate | None = None
    engines: list[EngineRecord] = Field(default=[])
    waiting: WaitingRecord | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Trials by status."""
        return dict(Counter(str(trial.status) for trial in self.trials))

    def top(self, count: int, role: Role = Role.SEARCH) -> list[TrialRecord]:
        """The best trials of a role, best first; those without a score last."""
        infeasible = TrialStatus.INFEASIBLE
        chosen = [t for t in self.trials if t.role is role and t.status is not infeasible]
        return sorted(chosen, key=lambda t: _rank(t, self.objective), reverse=True)[:count]


def build_result(
    config: SearchConfig,
    folder: SearchFolder,
    trials: Iterable[LedgerTrial],
    *,
    state: SearchState,
    tracking_uri: str,
    time: TimeSplit | None = None,
    spent: SpentRecord | None = None,
) -> SearchResult:
    """Sum a search up."""
    by_number = {trial.number: trial for trial in trials}
    best = best_trial(by_number.values(), config.objective)
    front, middle = _front(config, by_number.values())
    return SearchResult(
        name=config.name,
        state=state,
        objective=config.objective,
        tracking_uri=without_credentials(tracking_uri, tracking_uri),
        best=None if best is None else folder.uid(best.number),
        artifact=None if best is None else str(folder.artifact(folder.uid(best.number))),
        summary=None if best is None else describe_strategy(best.config),
        trials=[_record(folder, trial) for trial in by_number.values()],
        data=read_data_record(folder),
        time=time,
        confirmation=retold(read_confirmation(folder.confirmation), config.task.distance_unit),
        tradeoffs=list(config.tradeoffs),
        front=[folder.uid(number) for number in front],
        knee=None if middle is None else folder.uid(middle),
        spent=spent,
    )


def spent_record(config: SearchConfig, trials: Sequence[LedgerTrial], study: Study) -> SpentRecord:
    """What a search has spent, and which budgets that exhausts."""
    draws = [trial for trial in trials if trial.role is Role.SEARCH]
    infeasible = [trial for trial in draws if trial.status is TrialStatus.INFEASIBLE]
    budget, attrs = config.budget, study.user_attrs
    confirm_s = attrs.get("confirm_s", 0.0)
    hours = (attrs.get("spent_s", 0.0) + confirm_s) / 3600
    gpu_s = attrs.get("spent_gpu_s", 0.0) + attrs.get("confirm_gpu_s", 0.0)
    spent: dict[str, Any] = {
        "trials": len(draws) - len(infeasible),
        "total_steps": sum(trial.step for trial in trials),
        "tokens": attrs.get("tokens"),
        "time_s": attrs.get("spent_s", 0.0),
        "gpu_hours": gpu_s / 3600,
        "money": None if budget.price_per_hour is None else hours * budget.price_per_hour,
    }
    limits = {name: getattr(budget, name) for name in spent}
    over = [
        name
        for name, limit in limits.items()
        if limit is not None and spent[name] is not None and spent[name] >= limit
    ]
    steps = spent.pop("total_steps")
    spent["time_s"] += confirm_s  # budget.time_s is the search's alone
    return SpentRecord(
        **spent,
        steps=steps,
        infeasible=len(infeasible),
        confirm_s=confirm_s,
        confirm_steps=round(attrs.get("confirm_steps", 0)),
        over=over,
    )


def _front(config: SearchConfig, trials: Iterable[LedgerTrial]) -> tuple[list[int], int | None]:
    """With several objectives, the numbers of the Pareto front and of its knee."""
    objectives = (config.objective, *config.tradeoffs)
    complete = (trial for trial in trials if trial.status is TrialStatus.COMPLETE)
    known = {trial.number: goodnesses(trial.metrics, objectives) for trial in complete}
    scores = {number: found for number, found in known.items() if found is not None}
    front = pareto_front(scores) if config.tradeoffs else []
    return front, knee(scores, front)


def best_trial(trials: Iterable[LedgerTrial], objective: str) -> LedgerTrial | None:
    """The best of the trials that ran to the full budget, baselines included.

    Equal scores: fewer extra tokens win, then the earlier trial.
    """
    complete = [trial for trial in trials if trial.status is TrialStatus.COMPLETE]

    def rank(trial: LedgerTrial) -> tuple[float, float, int]:
        score = goodness(objective, trial.metrics[objective])
        return score, -trial.metrics.get(EXTRA_TOKENS, 0.0), -trial.number

    return max(complete, key=rank, default=None)


def read_data_record(folder: SearchFolder) -> DataRecord | None:
    """What is known of a search's rows; None before they were read."""
    if not folder.data.exists():
        return None
    return DataRecord.model_validate_json(folder.data.read_text())


def read_result(folder: SearchFolder, tracking_uri: str) -> SearchResult:
    """How a search stands now, whether its driver runs or not."""
    config = load_search(folder.config)
    with reading_study(folder.path, config.name) as study:
        trials = list(read_trials(study))
        spent = spent_record(config, trials, study)
    state = saved_state(folder, trials)
    result = build_result(
        config, folder, trials, state=state, tracking_uri=tracking_uri, spent=spent
    )
    roster = read_roster(folder.path) if state == "running" else Roster()  # of a killed driver
    stands = state in ("interrupted", "spent")
    waiting = budget_spent(spent) if stands else roster.waiting
    return result.model_copy(update={"engines": roster.engines, "waiting": waiting})


def budget_spent(spent: SpentRecord) -> WaitingRecord | None:
    """Why a search that is not at its end stands still, where that is a budget."""
    over = [f"budget.{name}" for name in spent.over if name != "trials"]
    if not over:
        return None
    return WaitingRecord(kind="budget", detail=f"{' and '.join(over)} is spent: raise it")


def saved_state(folder: SearchFolder, trials: Iterable[LedgerTrial]) -> SearchState:
    """The state that the last run left, or `running` while a driver holds the lock."""
    from orchestrator.driver_lock import is_held

    if is_held(folder):
        return "running"
    if not folder.result.exists():
        return "interrupted"
    state = SearchResult.model_validate_json(folder.result.read_text()).state
    paused = any(trial.status is TrialStatus.RUNNING for trial in trials)
    return "interrupted" if paused and state != "spent" else state


def _record(folder: SearchFolder, trial: LedgerTrial) -> TrialRecord:
    return TrialRecord(
        uid=folder.uid(trial.number),
        number=trial.number,
        strategy=trial.config.strategy.short_name,
        role=trial.role,
        status=trial.status,
        step=trial.step,
        metrics=dict(trial.metrics),
        params=dict(trial.params),
        attempts=trial.attempts,
        reason=trial.reason,
        failure=trial.failure,
    )


def _rank(trial: TrialRecord, objective: str) -> tuple[bool, bool, float, float, int]:
    metrics: Mapping[str, float] = trial.metrics
    return (
        objective in metrics,
        trial.status is TrialStatus.COMPLETE,
        goodness(objective, metrics.get(objective, 0.0)),
        -metrics.get(EXTRA_TOKENS, 0.0),
        -trial.number,
    )
