"""What is known of a task's data before anything is trained on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from trainable.data import Split
from trainable.records.reading import digest_or_none
from trainable.records.table import RecordTable, TableSplit

Digests: TypeAlias = Mapping[str, Mapping[str, str | None]]  # per split: path to SHA-256


@dataclass(frozen=True)
class Overlap:
    """How much of a split stands in train as well.

    Args:
        prompts: rows whose prompt some training row has.
        rows: rows that are a training row, prompt and completion.
    """

    prompts: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What a person should know of the rows.

    Args:
        rows: per split.
        distances: per split, those that its rows have, ascending.
        overlap: per split but train.
        sha256: content digest by file, per split that was given.
        notes: what is odd and no error.
        example: one prompt.
    """

    rows: Mapping[str, int]
    distances: Mapping[str, list[int]]
    overlap: Mapping[str, Overlap]
    sha256: Digests
    notes: list[str] = field(default_factory=list)
    example: str | None = None


def overlap_with_train(splits: Mapping[Split, TableSplit]) -> dict[str, Overlap]:
    """Exact duplicates between train and each other split."""
    train = splits["train"]
    prompts_N = train.table.prompt_keys_N[train.places_N]
    rows_N = train.table.row_keys_N[train.places_N]
    found = {}
    for name, split in splits.items():
        if name != "train":
            own_prompts_N = split.table.prompt_keys_N[split.places_N]
            own_rows_N = split.table.row_keys_N[split.places_N]
            found[str(name)] = Overlap(
                prompts=int(np.isin(own_prompts_N, prompts_N).sum()),
                rows=int(np.isin(own_rows_N, rows_N).sum()),
            )
    return found


def table_notes(name: str, table: RecordTable) -> list[str]:
    """What is odd about some files and no error.

    Args:
        name: what they are called in a message.
    """
    notes = []
    tried, differ = (int(str(table.facts[fact])) for fact in ("seams_tried", "seams_differ"))
    if differ:
        notes.append(
            f"{name}: in {differ} of {tried} rows, prompt and completion tokenised as one text "
            "give other tokens where they meet; end prompts where a token ends, for example "
            "before a space"
        )
    unknown, first = int(str(table.facts["unknown"])), table.facts["unknown_rows"]
    if unknown and isinstance(first, list):
        more = ", …" if unknown > len(first) else ""
        notes.append(
            f"{name}: {unknown} rows (row {', '.join(map(str, first))}{more}) hold characters that "
            "the tokenizer does not know: the model sees one unknown token for all of them"
        )
    ignored = table.facts["ignored"]
    if isinstance(ignored, list) and ignored:
        notes.append(f"{name}: the columns {', '.join(map(str, ignored))} are not read")
    return notes


def digests_of(files: Mapping[Split, Sequence[str] | None]) -> dict[str, dict[str, str | None]]:
    """The content digests of the files of each split that has any; None for one that is unread."""
    return {
        split: {str(path): digest_or_none(Path(path)) for path in paths}
        for split, paths in files.items()
        if paths
    }


def digest_differences(old: Digests, new: Digests) -> list[str]:
    """Which data files have other contents, one line each: `task.train: …`."""
    lines = []
    for split in dict.fromkeys([*old, *new]):
        before, after = old.get(split, {}), new.get(split, {})
        for path in dict.fromkeys([*before, *after]):
            one, other = before.get(path), after.get(path)
            if one != other:
                lines.append(f"task.{split}: {path} has changed ({_short(one)} -> {_short(other)})")
    return lines


def _short(digest: str | None) -> str:
    return "absent" if digest is None else f"{digest[:12]}…"
