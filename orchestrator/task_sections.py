"""The `task` section of a search's configuration: one model per kind, told apart by `kind`.

A new task is one class here, with `kind` and its own metrics, and one more member of `TaskConfig`.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    Strict,
    ValidationInfo,
    field_validator,
    model_validator,
)

from orchestrator.errors import ConfigError
from orchestrator.sections import MOST_LENGTHS, Count, Length, Rows, Section, Seed, Text, refused
from search_spaces.errors import Problem, did_you_mean, shown
from trainable.answer_metrics import NORMALISED_MATCH, absolute_metric, metric_name, repeated_names
from trainable.data import ALL_SPLITS, SEARCH_SPLITS, Split
from trainable.metrics import COMMON_METRICS, EXACT_MATCH, METRIC_NAME

_WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]*")  # as scores are named

Share: TypeAlias = Annotated[float, Strict(), Field(ge=0, lt=1)]


class TaskSection(Section):
    """What the rest of a configuration may ask of a task."""

    own_metrics: ClassVar[tuple[str, ...]] = ()
    reads_files: ClassVar[bool] = False
    distance_unit: ClassVar[str] = "distance"  # what a distance counts, in words

    kind: str

    def splits(self) -> tuple[Split, ...]:
        """The splits that exist."""
        return ALL_SPLITS

    def metrics_by_name(self) -> tuple[str, ...]:
        """The metrics that every split is scored by."""
        return (*COMMON_METRICS, *self.own_metrics)

    def distances(self, split: Split) -> tuple[str, Sequence[int]] | None:
        """The field that decides a split's distances, and these; None where only rows tell."""
        return None


class LengthsTaskConfig(TaskSection):
    """What tasks share that make rows of any length: the lengths, and how many rows of each."""

    train_lengths: tuple[Length, Length] = Field(
        default=(3, 6), description="the shortest and the longest length to train on"
    )
    val_ood_lengths: tuple[Length, ...] = Field(
        default=(8, 12),
        min_length=1,
        max_length=MOST_LENGTHS,
        description="lengths that the search is judged on",
    )
    test_ood_lengths: tuple[Length, ...] = Field(
        default=(8, 12, 18),
        min_length=1,
        max_length=MOST_LENGTHS,
        description="lengths that a winner is confirmed on",
    )
    train_rows: Rows = Field(default=2048, description="the number of examples to train on")
    val_rows: Rows = Field(default=64, description="the number of validation examples per length")
    test_rows: Rows = Field(default=500, description="the number of test examples per length")

    def distances(self, split: Split) -> tuple[str, Sequence[int]] | None:
        """The lengths of a split."""
        if split.endswith("_ood"):
            return f"task.{split}_lengths", getattr(self, f"{split}_lengths")
        low, high = self.train_lengths
        return "task.train_lengths", range(low, high + 1)

    @field_validator("train_lengths")
    @classmethod
    def _ascend(cls, lengths: tuple[int, int]) -> tuple[int, int]:
        if lengths[0] > lengths[1]:
            low, high = lengths
            raise refused(list(lengths), "expected the shortest first", f"write [{high}, {low}]")
        return lengths

    @field_validator("val_ood_lengths", "test_ood_lengths")
    @classmethod
    def _lie_outside(cls, lengths: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        longest = info.data.get("train_lengths", (1, 0))[1]
        inside = [length for length in lengths if length <= longest]
        if inside:
            wrong = f"expected lengths above {longest}, the longest in training"
            raise refused(list(lengths), wrong, f"remove {', '.join(map(str, inside))}")
        if len(set(lengths)) < len(lengths):
            raise refused(list(lengths), "a length is there twice", "remove one")
        return lengths

    @field_validator("test_ood_lengths")
    @classmethod
    def _go_further(cls, lengths: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        seen = info.data.get("val_ood_lengths", ())
        if set(lengths) <= set(seen):
            wrong = "expected at least one length that val_ood_lengths lacks"
            raise refused(list(lengths), wrong, f"add one, for example {max(seen) + 6}")
        return lengths


class GenerationTaskConfig(LengthsTaskConfig):
    """The generation task of the paper, on lengths that training never saw."""

    kind: Literal["generation"] = Field(description="the task's name")
    own_metrics: ClassVar[tuple[str, ...]] = ("equation_accuracy",)
    distance_unit: ClassVar[str] = "equations"


class SummationTaskConfig(LengthsTaskConfig):
    """The summation task of the paper, on lists with more variables than training saw."""

    kind: Literal["summation"] = Field(description="the task's name")
    own_metrics: ClassVar[tuple[str, ...]] = ("value_accuracy",)
    distance_unit: ClassVar[str] = "variables"

    train_lengths: tuple[Length, Length] = Field(
        default=(5, 15), description="the fewest and the most variables to train on"
    )
    val_ood_lengths: tuple[Length, ...] = Field(
        default=(18, 22),
        min_length=1,
        max_length=MOST_LENGTHS,
        description="numbers of variables to judge the search on",
    )
    test_ood_lengths: tuple[Length, ...] = Field(
        default=(18, 22, 28),
        min_length=1,
        description="numbers of variables to confirm on",
    )


class RepetitionTaskConfig(LengthsTaskConfig):
    """The repetition task of the paper, with more copies than training saw."""

    kind: Literal["repetition"] = Field(description="the task's name")
    own_metrics: ClassVar[tuple[str, ...]] = ("copy_accuracy",)
    distance_unit: ClassVar[str] = "copies"

    train_lengths: tuple[Length, Length] = Field(
        default=(1, 5), description="the fewest and the most copies to train on"
    )
    val_ood_lengths: tuple[Length, ...] = Field(
        default=(6, 8),
        min_length=1,
        max_length=MOST_LENGTHS,
        description="numbers of copies to judge the search on",
    )
    test_ood_lengths: tuple[Length, ...] = Field(
        default=(6, 8, 10),
        min_length=1,
        max_length=MOST_LENGTHS,
        description="numbers of copies to confirm on",
    )


def _folder(info: ValidationInfo) -> Path:
    """What relative paths are relative to: the search file's folder, else the current one."""
    return Path((info.context or {}).get("folder") or Path.cwd())


def _absolute(paths: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    # Without `..`, but not resolved: where a link points may be meant to change.
    return tuple(os.path.abspath(_folder(info) / Path(path).expanduser()) for path in paths)


def _as_list(paths: object) -> object:
    return [paths] if isinstance(paths, str) else paths


Files: TypeAlias = Annotated[
    tuple[Text, ...],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
    Field(min_length=1),
    AfterValidator(_absolute),
]


class SplitConfig(Section):
    """What share of the training files is kept from training, by a hash of the prompt."""

    val: Share = Field(default=0.1, description="the share that the search is judged on")
    test: Share = Field(default=0.1, description="the share that a winner is confirmed on")
    seed: Seed = Field(default=0, description="the seed that decides which rows")

    @model_validator(mode="after")
    def _leaves_something(self) -> SplitConfig:
        if self.val + self.test >= 1:
            raise refused([self.val, self.test], "nothing is left to train on", "lower val or test")
        return self


class OodConfig(Section):
    """Which rows of the training files are out of distribution, by their length."""

    by: Literal["prompt_tokens", "response_tokens", "prompt_chars", "completion_chars"] = Field(
        description="what is measured", examples=["prompt_tokens"]
    )
    above: Count = Field(description="the longest that is trained on", examples=[64])


class RecordsTaskConfig(TaskSection):
    """A person's own rows, from JSONL or Parquet files."""

    reads_files: ClassVar[bool] = True

    kind: Literal["records"] = Field(description="the task's name")
    train: Files = Field(description="the file to train on, or a list", examples=["data.jsonl"])
    val_id: Files | None = Field(default=None, description="the file that the search is judged on")
    val_ood: Files | None = Field(
        default=None, description="the file out of distribution that the search is judged on"
    )
    test_id: Files | None = Field(default=None, description="the file to confirm a winner on")
    test_ood: Files | None = Field(
        default=None, description="the file out of distribution to confirm a winner on"
    )
    split: SplitConfig = Field(
        default=SplitConfig(), description="how splits without a file are made from train"
    )
    ood: OodConfig | None = Field(
        default=None, description="what of train is out of distribution, and never trained on"
    )
    metrics: tuple[Text, ...] = Field(
        default=(), description="normalised_match, or module:function for a metric of your own"
    )

    def splits(self) -> tuple[Split, ...]:
        """Those that have files, and those that are made from train."""
        made: dict[Split, bool] = {
            "train": True,
            "val_id": True,
            "val_ood": self.ood is not None,
            "test_id": self.split.test > 0,
            "test_ood": self.ood is not None and self.split.test > 0,
        }
        return tuple(s for s in ALL_SPLITS if made[s] or getattr(self, s) is not None)

    def metrics_by_name(self) -> tuple[str, ...]:
        """The common metrics and those that are named."""
        return tuple(dict.fromkeys([*COMMON_METRICS, *map(metric_name, self.metrics)]))

    @field_validator("train", "val_id", "val_ood", "test_id", "test_ood", mode="before")
    @classmethod
    def _are_files(cls, files: object) -> object:
        if files is not None and not isinstance(files, str | list | tuple):
            wrong = "expected a file, or a list of files"
            raise refused(files, wrong, "write data.jsonl, or [a.jsonl, b.jsonl]")
        return files

    @field_validator("metrics", mode="before")
    @classmethod
    def _are_listed(cls, metrics: object) -> object:
        if not isinstance(metrics, list | tuple):
            named = metrics if isinstance(metrics, str) and metrics else NORMALISED_MATCH
            raise refused(metrics, "expected a list of metrics", f"write [{named}]")
        return metrics

    @field_validator("metrics")
    @classmethod
    def _have_names(cls, metrics: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = (*COMMON_METRICS, NORMALISED_MATCH)
        problems = []
        for place, spec in enumerate(metrics):
            source, colon, _ = spec.rpartition(":")
            if not colon and spec not in known:
                remedy = did_you_mean(spec, known)
                problems.append(_item_problem(place, spec, "there is no such metric", remedy))
            elif colon and not (source and METRIC_NAME.fullmatch(metric_name(spec))):
                wrong, remedy = "it names no function", "write module:function"
                problems.append(_item_problem(place, spec, wrong, remedy))
        if not problems and (repeated := repeated_names(metrics)):
            wrong = f"the name {repeated[0]} stands for two metrics"
            raise refused(list(metrics), wrong, "rename the function")
        if problems:
            raise ConfigError(problems)
        return tuple(absolute_metric(spec, _folder(info)) for spec in metrics)

    @model_validator(mode="after")
    def _agrees(self) -> RecordsTaskConfig:
        problems = []
        makes_test = self.test_ood is None and self.split.test > 0
        if self.ood is not None and self.val_ood is not None and not makes_test:
            wrong = "no split is left for rows above the bound"
            remedy = "remove it, or val_ood, or test_ood and give split.test a share"
            problems.append(_problem("ood", wrong, remedy))
        makes_val = self.val_id is None or (self.ood is not None and self.val_ood is None)
        if makes_val and not self.split.val:
            wrong = "nothing of train is left for validation"
            problems.append(_problem("split.val", wrong, "raise it above 0, or give val_id a file"))
        if problems:
            raise ConfigError(problems)
        return self


TaskConfig: TypeAlias = Annotated[
    GenerationTaskConfig | SummationTaskConfig | RepetitionTaskConfig | RecordsTaskConfig,
    Field(discriminator="kind"),
]
TASK_SECTIONS: dict[str, type[TaskSection]] = {
    get_args(section.model_fields["kind"].annotation)[0]: section
    for section in get_args(get_args(TaskConfig)[0])
}


def _item_problem(place: int, spec: str, wrong: str, remedy: str) -> Problem:
    return Problem(path=str(place), got=shown(spec), wrong=wrong, remedy=remedy, location=(place,))


def _problem(path: str, wrong: str, remedy: str) -> Problem:
    return Problem(path=path, wrong=wrong, remedy=remedy, location=tuple(path.split(".")))


def default_objective(task: TaskSection | None) -> str:
    """What is sought where nothing is said: exact match, out of distribution where there is any."""
    ood = task is None or "val_ood" in task.splits()
    return f"{'val_ood' if ood else 'val_id'}/{EXACT_MATCH}"


def metric_problem(
    path: str, metric: str, task: TaskSection, refused: Callable[[str], bool]
) -> Problem | None:
    """What is wrong with a metric that a search shall go by, or None.

    Args:
        path: the field that names it.
        refused: whether a field of the task is wrong by itself, so that nothing follows from it.
    """
    split, _, rest = metric.partition("/")
    name, slash, distance = rest.partition("/")
    there = [s for s in reversed(SEARCH_SPLITS) if s in task.splits()]
    if split in SEARCH_SPLITS and split not in there:
        remedy = f"write {there[0]}/{name}, or give task.{split} a file or task.ood a rule"
        return _metric_problem(path, metric, f"the task has no {split}", remedy)
    known = [f"{one}/{other}" for one in there for other in task.metrics_by_name()]
    if f"{split}/{name}" not in known or (slash and not _WHOLE_NUMBER.fullmatch(distance)):
        remedy = did_you_mean(f"{split}/{name}" if name else metric, known)
        return _metric_problem(path, metric, "the search does not measure that", remedy)
    distances = task.distances(there[there.index(split)])  # type: ignore[arg-type]
    if not distance or distances is None or refused(distances[0]):
        return None
    source, lengths = distances
    if int(distance) in lengths:
        return None
    remedy = f"choose one of {', '.join(map(str, lengths))}, or add it there"
    return _metric_problem(path, metric, f"{source} has no {distance}", remedy)


def _metric_problem(path: str, metric: str, wrong: str, remedy: str) -> Problem:
    location = tuple(path.split("."))
    return Problem(path=path, got=shown(metric), wrong=wrong, remedy=remedy, location=location)
