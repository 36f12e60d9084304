"""The rows that a search reads: checked before anything starts, and the same when it goes on."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.assignment import DataSource
from orchestrator.errors import ConfigError
from orchestrator.feasibility import model_source, refuse_impossible
from orchestrator.folders import SearchFolder, by_content, cache_folder
from orchestrator.reproduction import data_digests
from orchestrator.results import DataRecord, read_data_record
from orchestrator.search_config import SearchConfig
from search_spaces.errors import Problem, shown
from trainable.answer_metrics import judge_all, metric_files
from trainable.data import ALL_SPLITS, Task
from trainable.records.reading import digest_or_none
from trainable.records.report import DataReport, Digests, digest_differences, digests_of
from trainable.tasks import build_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class SearchData:
    """A search's rows.

    Args:
        source: what an engine needs to read them.
        record: what is known of them.
        digests: per split, the SHA-256 of its rows, or of the files that they were read from.
    """

    source: DataSource
    record: DataRecord
    digests: Mapping[str, Any]

    def checked(self, found: Mapping[str, Mapping[str, int]]) -> DataRecord:
        """The record with what an engine has found: the rows that it keeps and those it drops."""
        dropped = {split: count for split, count in found["dropped"].items() if count}
        return self.record.model_copy(update={"rows": dict(found["rows"]), "dropped": dropped})


def data_differences(config: SearchConfig, folder: SearchFolder) -> list[str]:
    """Which files, of data and of metrics, have changed since the search began, one line each."""
    before = read_data_record(folder)
    if before is None or not config.task.reads_files:
        return []
    files = {split: getattr(config.task, split) for split in ALL_SPLITS}
    now = digests_of(files) | _metric_digests(config)
    return digest_differences(_in_any_home(before.sha256), _in_any_home(now))


def _in_any_home(digests: Digests) -> Digests:
    """Digests by paths that do not change when LATENTUNE_HOME moves."""
    return {
        split: {by_content(path): digest for path, digest in files.items()}
        for split, files in digests.items()
    }


def read_data(config: SearchConfig, home: Path) -> SearchData:
    """Read and check all rows; nothing is trained and no Ray is started.

    Raises:
        TaskError: for a task that cannot be used, or a space without a strategy that fits it; a
            `BadRowsError` lists the rows of its files.
        ConfigError: for a metric at a distance that no row has.
    """
    cache = cache_folder(home)
    options = config.task.model_dump(mode="json")
    report: DataReport | None = None
    if config.task.reads_files:
        task, report = checked_task(config, home, model_source(config).tokenizer())
        assert report is not None
        options["sha256"] = {split: dict(files) for split, files in report.sha256.items()}
    else:
        task = build_task(options, config.data.seed)
    refuse_impossible(config, task)
    source = DataSource(
        task=options,
        seed=config.data.seed,
        max_tokens=config.data.max_tokens,
        long_rows=config.data.long_rows,
        cache=str(cache),
    )
    return SearchData(source, _record(task, report, config), data_digests(source, task))


def _metric_digests(config: SearchConfig) -> dict[str, dict[str, str | None]]:
    """The digests of the files with metrics of one's own: what a search is scored by."""
    files = metric_files(getattr(config.task, "metrics", ()))
    return {"metrics": {file: digest_or_none(Path(file)) for file in files}} if files else {}


def checked_task(
    config: SearchConfig, home: Path, tokenizer: PreTrainedTokenizerBase
) -> tuple[Task, DataReport | None]:
    """A search's task, its rows read and checked, and what is known of them if files are read.

    Raises:
        TaskError, ConfigError: as `read_data` does.
    """
    from trainable.tasks.records import RecordsTask

    options = config.task.model_dump(mode="json")
    task = build_task(options, config.data.seed, tokenizer=tokenizer, cache=cache_folder(home))
    if not isinstance(task, RecordsTask):
        return task, None
    _try_metrics(task)
    _check_distances(config, task.report)
    return task, task.report


def _record(task: Task, report: DataReport | None, config: SearchConfig) -> DataRecord:
    if report is None:
        rows = {str(split): len(task.examples(split)) for split in task.splits}
        return DataRecord(rows=rows, example=task.examples("val_id")[0].prompt)
    known: dict[str, Any] = asdict(report)
    del known["distances"]
    known["sha256"] = {**known["sha256"], **_metric_digests(config)}
    return DataRecord.model_validate(known)


def _try_metrics(task: Task) -> None:
    """Call a person's own metrics once: a mistake shows now, and not after the first rung."""
    example = task.examples("val_id")[0]
    judge_all(
        task.answer_metrics,
        f"{example.origin}, tried with the reference as its answer",
        answer=example.completion,
        reference=example.completion,
        prompt=example.prompt,
    )


def _check_distances(config: SearchConfig, report: DataReport) -> None:
    """Refuse a metric at a distance that the files turned out not to have."""
    problems = []
    for path in ("objective", "stopping.metric"):
        metric = operator.attrgetter(path)(config)
        split, _, rest = (metric or "").partition("/")
        distance = rest.partition("/")[2]
        if distance and int(distance) not in report.distances[split]:
            there = ", ".join(map(str, report.distances[split]))
            wrong = f"no row of {split} has the distance {distance}"
            remedy = f"choose one of {there}, or none for their mean"
            problems.append(Problem(path=path, got=shown(metric), wrong=wrong, remedy=remedy))
    if problems:
        raise ConfigError(problems)
