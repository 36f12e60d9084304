"""The configuration of a whole search, and what its sections must agree on."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import (
    BeforeValidator,
    Field,
    Strict,
    ValidationInfo,
    field_validator,
    model_validator,
)

from orchestrator.errors import ConfigError
from orchestrator.sections import (
    BaseModelConfig,
    BudgetConfig,
    ConfirmConfig,
    DataConfig,
    EngineConfig,
    SamplerConfig,
    Section,
    SpaceConfig,
    StoppingConfig,
    Text,
    TrackingConfig,
    refused,
)
from orchestrator.task_sections import TaskConfig, default_objective, metric_problem
from orchestrator.yaml_source import dump_yaml
from search_spaces import SpaceError, legal_points
from search_spaces.errors import Problem, did_you_mean, shown
from trainable.metrics import DECODING_TIME

COSTS = ("cost/extra_tokens_pct",)  # what is known of a trial before it is trained
MOST_STEPS_IN_ALL = 10**10  # centuries of the fastest engine known
Limit: TypeAlias = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
SLUG = r"[a-z0-9][a-z0-9._-]{0,63}"


def as_section(space: object) -> object:
    """The section behind a preset's bare name; anything else as it is."""
    return {"preset": space} if isinstance(space, str) else space


class SearchConfig(Section):
    """Everything that decides a search."""

    name: str = Field(description="the search's name", examples=["generation-quickstart"])
    task: TaskConfig = Field(description="what is learned", examples=[{"kind": "generation"}])
    base_model: BaseModelConfig = Field(default=BaseModelConfig(), description="the frozen model")
    data: DataConfig = Field(default=DataConfig(), description="the stream of examples")
    space: Annotated[
        SpaceConfig, BeforeValidator(as_section, json_schema_input_type=str | SpaceConfig)
    ] = Field(description="what is searched", examples=["quick"])
    objective: Text = Field(
        default_factory=lambda before: default_objective(before.get("task")),
        description="the metric that the search improves",
    )
    tradeoffs: tuple[Text, ...] = Field(
        default=(),
        description="further metrics to improve, such as [cost/extra_tokens_pct]",
    )
    limits: Mapping[Text, Limit] = Field(
        default={},
        description="the most that a trial may cost, such as {cost/extra_tokens_pct: 20}",
    )
    budget: BudgetConfig = Field(description="what the search may spend", examples=[{"trials": 24}])
    sampler: SamplerConfig = Field(
        default=SamplerConfig(), description="what chooses configurations"
    )
    stopping: StoppingConfig = Field(default=StoppingConfig(), description="what stops weak trials")
    engine: EngineConfig = Field(default=EngineConfig(), description="how trials share a model")
    confirm: ConfirmConfig = Field(default=ConfirmConfig(), description="how a winner is confirmed")
    tracking: TrackingConfig = Field(default=TrackingConfig(), description="where MLflow shows it")

    @field_validator("name")
    @classmethod
    def _is_a_slug(cls, name: str) -> str:
        if not re.fullmatch(SLUG, name):
            slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).lstrip("._-")[:64].rstrip("-")
            remedy = f"write for example {slug or 'generation-quickstart'}"
            raise refused(name, f"expected a name of the form {SLUG}", remedy)
        return name

    @field_validator("tradeoffs")
    @classmethod
    def _differ(cls, tradeoffs: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        names = [info.data.get("objective"), *tradeoffs]
        twice = next((name for name in tradeoffs if names.count(name) > 1), None)
        if twice is not None:
            raise refused(list(tradeoffs), f"{twice} is an objective twice", "remove one")
        return tradeoffs

    @field_validator("limits")
    @classmethod
    def _are_known(cls, limits: Mapping[str, float]) -> Mapping[str, float]:
        problems = [
            Problem(
                path=name,
                got=shown(limit),
                wrong="nothing of that name is known before a trial is trained",
                remedy=did_you_mean(name, COSTS),
                location=(name,),
            )
            for name, limit in limits.items()
            if name not in COSTS
        ]
        if problems:
            raise ConfigError(problems)
        return limits

    @model_validator(mode="after")
    def _agrees(self) -> SearchConfig:
        problems = contradictions(lambda path: operator.attrgetter(path)(self))
        problems += self._grid_problems()
        if problems:
            raise ConfigError(problems)
        return self

    def _grid_problems(self) -> list[Problem]:
        if self.sampler.kind != "grid":
            return []
        try:
            points = len(self.grid())
        except SpaceError as error:
            wrong, remedy = error.problems[0].wrong, error.problems[0].remedy
            return [_problem("sampler.kind", "grid", wrong, remedy)]
        if self.budget.trials <= points:
            return []
        wrong = f"the grid has {points} configurations, each tried once"
        return [_problem("budget.trials", self.budget.trials, wrong, f"write {points} or less")]

    def rungs(self) -> list[int]:
        """The steps at which a trial is judged, ascending; the last is the whole budget."""
        steps, stopping = self.budget.steps, self.stopping
        rungs = []
        rung = stopping.min_steps
        while stopping.kind != "none" and rung < steps:
            rungs.append(rung)
            rung *= stopping.factor
        return [*rungs, steps]

    def grid(self) -> list[Mapping[str, Any]]:
        """The params of every legal configuration in order, for the sampler `grid`; else none."""
        return legal_points(self.space.build()) if self.sampler.kind == "grid" else []

    def to_yaml(self) -> str:
        """The whole configuration, defaults included, as `load_search` reads it."""
        return dump_yaml(self.model_dump(mode="json"))


def contradictions(value: Callable[[str], Any]) -> list[Problem]:
    """What is wrong between sections that are right in themselves.

    Args:
        value: dotted path to its value, or to None where the value is not known; `task` to the
            section itself.
    """
    problems: list[Problem | None] = []
    steps, least = value("budget.steps"), value("stopping.min_steps")
    stops = value("stopping.kind") not in (None, "none")
    if stops and None not in (steps, least) and least > steps:
        wrong = f"expected at most budget.steps, which is {steps}"
        remedy = "lower it, raise budget.steps, or write stopping.kind: none"
        problems.append(_problem("stopping.min_steps", least, wrong, remedy))
    trials = value("budget.trials")
    if None not in (trials, steps) and trials * steps > MOST_STEPS_IN_ALL:
        wrong = (
            f"budget.trials={trials} of budget.steps={steps} are {trials * steps:.3g} optimiser "
            f"steps, expected at most {MOST_STEPS_IN_ALL:.3g}"
        )
        problems.append(_problem("budget.trials", trials, wrong, "lower one of the two"))
    task = value("task")
    named = [(path, value(path)) for path in ("objective", "stopping.metric")]
    costs = (*COSTS, DECODING_TIME)
    named += [("tradeoffs", metric) for metric in value("tradeoffs") or () if metric not in costs]
    for path, metric in named:
        if task is not None and metric is not None:
            problems.append(metric_problem(path, metric, task, lambda name: value(name) is None))
    return [problem for problem in problems if problem is not None]


def _problem(path: str, got: object, wrong: str, remedy: str) -> Problem:
    location = tuple(path.split("."))
    return Problem(path=path, got=shown(got), wrong=wrong, remedy=remedy, location=location)
