"""Records: a person's own rows, from JSONL or Parquet.

    {"prompt": "fkw ->", "completion": "wkf"}
    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}

Splits are given as files, or made from the training file by a seeded hash of the prompt. Out of
distribution is a file of its own, or what a length rule takes out of the training file. The
rows are tokenised once and read from a memory-mapped cache (`trainable.records`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainable.answer_metrics import AnswerMetric, load_answer_metrics
from trainable.data import ALL_SPLITS, EncodedRow, Example, Ints, Split
from trainable.errors import TaskError
from trainable.records.problems import RowProblems
from trainable.records.report import (
    DataReport,
    Digests,
    digest_differences,
    digests_of,
    overlap_with_train,
    table_notes,
)
from trainable.records.splitting import OodRule, SplitRule, split_pool
from trainable.records.store import RecordStore
from trainable.records.table import RecordTable, TableSplit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REMEDIES: Mapping[Split, str] = {
    "train": "lower task.split.val and task.split.test, or give more rows",
    "val_id": "raise task.split.val, give more rows, or give task.val_id",
    "val_ood": "lower task.ood.above, give longer rows, or give task.val_ood",
    "test_id": "raise task.split.test or write 0, give more rows, or give task.test_id",
    "test_ood": "lower task.ood.above, write task.split.test: 0, or give task.test_ood",
}


class RecordsTask:
    """The records task: constructing it reads and checks all its rows.

    Args:
        train: the training files; what is not given is made from them.
        val_id, val_ood, test_id, test_ood: files of splits that are given.
        split: of `SplitRule`.
        ood: of `OodRule`; None where no row of the pool is out of distribution.
        metrics: beside the common ones, `normalised_match` or `module:function`.
        tokenizer: the base model's; the rows are encoded with it.
        cache: the folder in which encoded rows are kept; None keeps them in memory.
        sha256: what the files' digests must be, as `report.sha256`; None takes them as they are.

    Raises:
        BadRowsError: with all rows that cannot be used.
        TaskError: for options that contradict each other, a split without rows, files that have
            changed, or a metric that cannot be loaded.
    """

    def __init__(
        self,
        *,
        train: Sequence[str],
        val_id: Sequence[str] | None = None,
        val_ood: Sequence[str] | None = None,
        test_id: Sequence[str] | None = None,
        test_ood: Sequence[str] | None = None,
        split: Mapping[str, Any] | None = None,
        ood: Mapping[str, Any] | None = None,
        metrics: Sequence[str] = (),
        tokenizer: PreTrainedTokenizerBase,
        cache: Path | None = None,
        sha256: Digests | None = None,
    ) -> None:
        given: dict[Split, Sequence[str] | None] = {
            "train": train, "val_id": val_id, "val_ood": val_ood, "test_id": test_id,
            "test_ood": test_ood,
        }  # fmt: skip
        digests = digests_of(given)
        changed = [] if sha256 is None else digest_differences(sha256, digests)
        if changed:
            raise TaskError(
                f"its data files have changed since they were first read: {'; '.join(changed)}: "
                "put them back, or begin another search"
            )
        rule = SplitRule(**split or {})
        length = None if ood is None else OodRule(**ood)
        self._answer_metrics = load_answer_metrics(metrics, field="task.metrics")
        tables = _read(digests, RecordStore(tokenizer, cache))
        self._splits = _split(tables, rule, length)
        self.report = _report(self._splits, tables, digests)

    @property
    def splits(self) -> tuple[Split, ...]:
        """Those that are given or made."""
        return tuple(split for split in ALL_SPLITS if split in self._splits)

    @property
    def answer_metrics(self) -> Mapping[str, AnswerMetric]:
        """Those that the options name."""
        return self._answer_metrics

    def examples(self, split: Split) -> Sequence[Example]:
        """All rows of a split, always the same ones; a chat's prompt is the template's text."""
        return self._splits[split].examples()

    def encoded(self, split: Split) -> Sequence[EncodedRow]:
        """The same rows as ids."""
        return self._splits[split].rows()

    def lengths(self, split: Split) -> Ints:
        """[R], the tokens of each row."""
        found = self._splits[split]
        return found.table.lengths_N[found.places_N]

    def score(self, texts: Sequence[str], right_N: npt.NDArray[np.bool_]) -> dict[str, float]:
        """Nothing: the common metrics are enough."""
        return {}


def made_splits(given: Sequence[str], *, ood: bool, test: float) -> list[Split]:
    """The splits that are made from the training files.

    Args:
        given: those that have files of their own.
        ood: whether there is a length rule.
        test: the share of `test` splits.
    """
    wanted: dict[Split, bool] = {
        "val_id": True, "val_ood": ood, "test_id": test > 0, "test_ood": ood and test > 0,
    }  # fmt: skip
    return ["train", *(s for s, wants in wanted.items() if wants and s not in given)]


def _read(digests: Digests, store: RecordStore) -> dict[Split, RecordTable]:
    problems, tables = RowProblems(), dict[Split, RecordTable]()
    for split in ALL_SPLITS:
        table = store.table(digests[split], problems) if split in digests else None
        if table is not None:
            tables[split] = table
    problems.raise_any()
    kinds = {table.kind for table in tables.values()}
    if len(kinds) > 1:
        listed = ", ".join(f"{split} has {table.kind}" for split, table in tables.items())
        raise TaskError(f"task: its files hold rows of two kinds ({listed}): keep to one")
    return tables


def _split(
    tables: Mapping[Split, RecordTable], rule: SplitRule, length: OodRule | None
) -> dict[Split, TableSplit]:
    pool = tables["train"]
    made = made_splits(list(tables), ood=length is not None, test=rule.test)
    measures_N = None if length is None else _measured(pool, length)
    above = 1 if length is None else length.above
    places = split_pool(pool.prompt_keys_N, measures_N, rule, above, made)
    splits = {}
    for split in ALL_SPLITS:
        if split in places:
            places_N, far_N = places[split]
            splits[split] = _table_split(pool, places_N, far_N)
        elif split in tables:
            count = len(tables[split])
            splits[split] = _table_split(
                tables[split], np.arange(count), np.zeros(count, dtype=np.int64)
            )
        if split in splits and not len(splits[split]):
            remedy = _REMEDIES[split]
            if split == "train" and length is not None:
                remedy = f"raise task.ood.above, which is {length.above}, {remedy}"
            raise TaskError(f"the task has no rows in split {split}: {remedy}")
    return splits


def _table_split(table: RecordTable, places_N: Ints, far_N: Ints) -> TableSplit:
    """A split whose rows have the data's own distance where it gives one."""
    own_N = table.distances_N[places_N]
    return TableSplit(table, places_N, np.where(own_N < 0, far_N, own_N))


def _measured(table: RecordTable, rule: OodRule) -> Ints:
    match rule.by:
        case "prompt_tokens":
            return table.query_lengths_N
        case "response_tokens":
            return table.lengths_N - table.query_lengths_N
        case "prompt_chars":
            return table.characters_N("prompt")
        case "completion_chars":
            return table.characters_N("completion")


def _report(
    splits: Mapping[Split, TableSplit],
    tables: Mapping[Split, RecordTable],
    digests: Digests,
) -> DataReport:
    notes = [
        note for split, table in tables.items() for note in table_notes(f"task.{split}", table)
    ]
    return DataReport(
        rows={split: len(found) for split, found in splits.items()},
        distances={s: np.unique(found.distances_N).tolist() for s, found in splits.items()},
        overlap=overlap_with_train(splits),
        sha256=digests,
        notes=notes,
        example=splits["val_id"].examples()[0].prompt,
    )
