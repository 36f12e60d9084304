"""Use a pulled artifact folder: `latentune generate` and `latentune evaluate`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from orchestrator.console import print_line
from orchestrator.errors import TargetExistsError
from orchestrator.files import write_atomic
from orchestrator.results import SCHEMA_VERSION, Record
from trainable.answer_metrics import (
    NORMALISED_MATCH,
    absolute_metric,
    load_answer_metrics,
    metric_name,
)
from trainable.answers import continue_prompt
from trainable.artifact import Artifact
from trainable.base_model.loading import BaseModel, load_base
from trainable.base_model.options import can_spread, spreading
from trainable.base_model.source import BUNDLED
from trainable.data import SEARCH_SPLITS, TEST_SPLITS, EncodedTask, Split, Task
from trainable.decoding import LatentLM
from trainable.errors import BaseModelError, TaskError
from trainable.evaluation import evaluate_decoding
from trainable.latents import LatentTokens
from trainable.predictions import BASELINE_PREFIX, predict
from trainable.records.problems import RowProblems
from trainable.records.reading import digest_or_none
from trainable.records.report import table_notes
from trainable.records.store import RecordStore
from trainable.records.table import RecordTable
from trainable.tasks import RECORDS, build_task

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.parquet"


class Evaluation(Record):
    """Scores of one artifact folder on its own task, by free-running greedy decoding.

    Args:
        left_out: metrics of the search that are functions of one's own, and were not given.
    """

    schema_version: int = SCHEMA_VERSION
    folder: str
    strategy: str
    rows_per_distance: int
    metrics: dict[str, float]
    left_out: list[str]


class DataEvaluation(Record):
    """Scores of one artifact folder on a person's data.

    Args:
        predictions: the file with one row per item.
        metrics: means over all items; and of each distance, where there are several.
        baseline: the same of the frozen model alone; None where that was not asked.
    """

    schema_version: int = SCHEMA_VERSION
    folder: str
    strategy: str
    data: str
    rows: int
    max_new_tokens: int
    predictions: str
    extra_tokens_pct: float
    metrics: dict[str, float]
    baseline: dict[str, float] | None = None


def attach_folder(
    folder: Path, base_model: str | None, *, trust_remote_code: bool = False
) -> tuple[LatentLM, LatentTokens]:
    """Load an artifact folder and the base model that it names, and join them.

    Args:
        base_model: where the base model is now; default where the artifact says it was.
        trust_remote_code: whether the base model's own code may run; an artifact alone never
            makes it run.

    Raises:
        ArtifactError, FingerprintError, BaseModelError: if either cannot be used.
    """
    latents = LatentTokens.load(folder)
    base = base_of(latents.artifact, base_model, trust_remote_code=trust_remote_code)
    return latents.attach(base.model, base.tokenizer), latents


def base_of(artifact: Artifact, base_model: str | None, *, trust_remote_code: bool) -> BaseModel:
    """Load the base model that an artifact names, as it was loaded for training.

    Where it was spread over devices, so it is here, if it can be; devices that were named belong
    to the machine of the training, and `auto` takes their place. Neither changes what it computes.

    Raises:
        BaseModelError: if it cannot be used, or would run code of its own unasked.
    """
    named = artifact.base_model
    own_code = bool(named.get("trust_remote_code"))
    path = base_model or str(named.get("path", BUNDLED))
    if own_code and not trust_remote_code:
        raise BaseModelError(
            f"the base model {path!r} runs code of its own: read it at revision "
            f"{named.get('revision')}, then allow it with --trust-remote-code"
        )
    return load_base(
        path,
        revision=named.get("revision") if base_model is None or own_code else None,
        dtype=str(named.get("dtype", "float32")),
        quantization=named.get("quantization"),
        # Artifacts of before these fields were trained with the default, or cannot be told.
        attn_implementation=str(named.get("attn_implementation", "sdpa")),
        device_map=spreading(named.get("device_map")) if can_spread() else None,
        trust_remote_code=own_code,
    )


def generate_text(
    folder: Path,
    prompt: str,
    max_new_tokens: int,
    base_model: str | None,
    *,
    trust_remote_code: bool = False,
) -> str:
    """The prompt and what the model makes of it, greedily, to the end of its context at most.

    Raises:
        ContextError: if the prompt leaves no room there.
    """
    lm, latents = attach_folder(folder, base_model, trust_remote_code=trust_remote_code)
    specials = latents.artifact.add_special_tokens
    ids = np.array(lm.tokenizer(prompt, add_special_tokens=specials)["input_ids"], dtype=np.int64)
    whole = np.concatenate([ids, continue_prompt(lm, ids, max_new_tokens)])
    return str(lm.tokenizer.decode(whole, skip_special_tokens=True))


def evaluate_folder(
    folder: Path,
    splits: Sequence[str] | None,
    rows_per_distance: int,
    base_model: str | None,
    *,
    metrics: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> Evaluation:
    """Score an artifact folder on splits of the task that it was trained for.

    Args:
        splits: default the test splits, and where the task has none, those of the search.
        metrics: of one's own, `module:function`. What the artifact names is never imported.

    Raises:
        TaskError: for a split that does not exist, an artifact without a task, or a metric that
            cannot be used.
    """
    for split in splits or ():
        if split not in get_args(Split):
            raise TaskError(f"--split {split!r} is unknown; one of {', '.join(get_args(Split))}")
    named = Artifact.load(folder).task
    if not named:
        raise TaskError(
            f"{folder} holds imported latents, which have no task of their own: give DATA, a file "
            "with rows to score them on"
        )
    specs = [absolute_metric(spec, Path.cwd()) for spec in metrics]
    if specs and named.get("kind") != RECORDS:
        raise TaskError("--metric: the task makes its rows and is scored by its own metrics alone")
    lm, latents = attach_folder(folder, base_model, trust_remote_code=trust_remote_code)
    data = EncodedTask(task_of(latents.artifact, lm, specs), lm.tokenizer)
    given = {metric_name(spec) for spec in specs}
    found: dict[str, float] = {}
    for split in splits or _default_splits(data):
        if split not in data.splits:
            raise TaskError(f"--split {split}: the task has only {', '.join(data.splits)}")
        found |= evaluate_decoding(lm, data, split, rows_per_distance)
    return Evaluation(
        folder=str(folder),
        strategy=latents.artifact.config.strategy.short_name,
        rows_per_distance=rows_per_distance,
        metrics=found,
        left_out=[spec for spec in _with_code(named) if metric_name(spec) not in given],
    )


def evaluate_data(
    folder: Path,
    data: Path,
    *,
    to: Path,
    metrics: Sequence[str] = (),
    max_new_tokens: int | None = None,
    rows_at_once: int = 64,
    baseline: bool = False,
    base_model: str | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
) -> DataEvaluation:
    """Score an artifact folder on a person's data and write one row per item.

    Args:
        data: JSONL or Parquet with prompt and completion, or messages.
        to: the folder for `predictions.parquet`.
        metrics: of one's own, `module:function`. What the artifact names is never imported.
        max_new_tokens: of an answer; default the longest reference and a margin.
        rows_at_once: answers that are decoded together.
        baseline: also score the frozen model alone.
        overwrite: whether the file replaces an earlier one.

    Raises:
        BadRowsError: with all rows that cannot be used.
        TargetExistsError: if the file is there already.
        TaskError: for a metric that cannot be used.
    """
    _check_target(to, overwrite=overwrite)
    specs = [absolute_metric(spec, Path.cwd()) for spec in metrics]
    own = load_answer_metrics([NORMALISED_MATCH, *specs])
    lm, latents = attach_folder(folder, base_model, trust_remote_code=trust_remote_code)
    records = _read_records(data, lm, add_special_tokens=latents.artifact.add_special_tokens)
    found = predict(
        lm,
        records,
        own,
        max_new_tokens=max_new_tokens,
        rows_at_once=rows_at_once,
        baseline=baseline,
    )
    to.mkdir(parents=True, exist_ok=True)
    write_atomic(to / PREDICTIONS_FILE, _parquet(found.table))
    return DataEvaluation(
        folder=str(folder),
        strategy=latents.artifact.config.strategy.short_name,
        data=str(data),
        rows=len(records),
        max_new_tokens=found.max_new_tokens,
        predictions=str(to / PREDICTIONS_FILE),
        extra_tokens_pct=found.extra_tokens_pct(),
        metrics=found.means(),
        baseline=found.means(BASELINE_PREFIX) if baseline else None,
    )


def _check_target(to: Path, *, overwrite: bool) -> None:
    if to.exists() and not to.is_dir():
        raise TaskError(f"--to {to} is a file: give a folder for {PREDICTIONS_FILE}")
    if (to / PREDICTIONS_FILE).exists() and not overwrite:
        raise TargetExistsError(
            f"{to / PREDICTIONS_FILE} is there already: give another folder with --to, or replace "
            "it with --overwrite"
        )


def _read_records(data: Path, lm: LatentLM, *, add_special_tokens: bool) -> RecordTable:
    """A person's rows, encoded; what is odd about them is said."""
    problems = RowProblems()
    store = RecordStore(lm.tokenizer, None, add_special_tokens=add_special_tokens)
    records = store.table({str(data): digest_or_none(data)}, problems)
    problems.raise_any()
    assert records is not None  # or there was a problem
    for note in table_notes(str(data), records):
        logger.warning("%s", note)
    return records


def print_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Scores as a table."""
    table = Table("metric", "value", title=evaluation.strategy, title_justify="left")
    for name, value in evaluation.metrics.items():
        table.add_row(name, f"{value:.3f}")
    console.print(table)
    for spec in evaluation.left_out:
        line = f"left out: {spec}, which is code of the search's; give it with --metric"
        print_line(console, line)


def print_data_evaluation(console: Console, evaluation: DataEvaluation) -> None:
    """Scores as a table, beside the frozen model's where there are any, and where the rows are."""
    title = f"{evaluation.strategy} on {evaluation.rows} rows of {Path(evaluation.data).name}"
    baseline = evaluation.baseline
    table = Table("metric", "value", title=title, title_justify="left")
    if baseline is not None:
        table.add_column("frozen model alone")
    for name, value in evaluation.metrics.items():
        table.add_row(
            name, f"{value:.3f}", *([] if baseline is None else [f"{baseline[name]:.3f}"])
        )
    table.add_row("extra tokens", f"{evaluation.extra_tokens_pct:.0f} %")
    console.print(table)
    written = f"one row per item: {evaluation.predictions}"
    print_line(console, written)


def _default_splits(data: EncodedTask) -> list[Split]:
    tests = [split for split in TEST_SPLITS if split in data.splits]
    return tests or [split for split in SEARCH_SPLITS if split in data.splits]


def task_of(artifact: Artifact, lm: LatentLM, metrics: Sequence[str]) -> Task:
    """The artifact's task with the person's metrics, not with those that it would import itself."""
    options = {key: value for key, value in artifact.task.items() if key != "data_seed"}
    if options.get("kind") == RECORDS:
        code = _with_code(options)
        kept = [spec for spec in options.get("metrics", ()) if spec not in code]
        options["metrics"] = [*kept, *metrics]
    return build_task(options, artifact.data_seed, tokenizer=lm.tokenizer)


def _with_code(options: Mapping[str, Any]) -> list[str]:
    """A task's metrics that would have to be imported: a folder runs nothing."""
    return [spec for spec in options.get("metrics", ()) if ":" in spec]


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())
