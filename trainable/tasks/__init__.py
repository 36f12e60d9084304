"""The tasks, by the name that a search file gives as `task.kind`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainable.data import Task
from trainable.errors import TaskError
from trainable.tasks.generation import GenerationTask
from trainable.tasks.repetition import RepetitionTask
from trainable.tasks.summation import SummationTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tasks that make their rows, from options and a seed.
TASKS: dict[str, Callable[..., Task]] = {
    "generation": GenerationTask,
    "summation": SummationTask,
    "repetition": RepetitionTask,
}
RECORDS = "records"  # the task that reads them


def build_task(
    options: Mapping[str, Any],
    seed: int,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    cache: Path | None = None,
) -> Task:
    """Build a task from a search file's `task` section.

    Args:
        options: `kind` and the task's own options; lists are read as tuples.
        seed: the search's data seed.
        tokenizer: the base model's; `records` needs it to measure and encode its rows.
        cache: where `records` keeps encoded rows; None for nowhere.

    Raises:
        TaskError: for an unknown kind, or as the task itself does.
    """
    kind = options.get("kind")
    if kind != RECORDS and kind not in TASKS:
        raise TaskError(f"task.kind={kind!r} is unknown; one of {', '.join((*TASKS, RECORDS))}")
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in options.items()
        if name != "kind"
    }
    if kind == RECORDS:
        from trainable.tasks.records import RecordsTask  # pyarrow is for those who need it

        assert tokenizer is not None, "records are encoded with the base model's tokenizer"
        return RecordsTask(**plain, tokenizer=tokenizer, cache=cache)
    return TASKS[kind](**plain, seed=seed)
