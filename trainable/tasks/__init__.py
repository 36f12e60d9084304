"""The built-in tasks, by the name that a search file gives as `task.kind`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainable.data import Task
from trainable.errors import TaskError
from trainable.tasks.generation import GenerationTask
from trainable.tasks.repetition import RepetitionTask
from trainable.tasks.summation import SummationTask

TASKS: dict[str, Callable[..., Task]] = {
    "generation": GenerationTask,
    "summation": SummationTask,
    "repetition": RepetitionTask,
}


def build_task(options: Mapping[str, Any], seed: int) -> Task:
    """Build a task from a search file's `task` section.

    Args:
        options: `kind` and the task's own options; lists are read as tuples.
        seed: the search's data seed.

    Raises:
        TaskError: for an unknown kind, or as the task itself does.
    """
    kind = options.get("kind")
    if kind not in TASKS:
        raise TaskError(f"task.kind={kind!r} is unknown; one of {', '.join(TASKS)}")
    plain = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in options.items()
        if name != "kind"
    }
    return TASKS[kind](**plain, seed=seed)
