"""Metrics of a decoded answer: what the model writes by itself, compared as text.

    normalised_match      the answer is the reference, up to case, white space and marks at the ends
    my_metrics:f1         a person's own function, f1(answer=…, reference=…, prompt=…) -> number

They cost one free-running greedy decoding of each row, where the common metrics cost one
forward for all rows together.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os.path
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, SupportsFloat

from trainable.errors import TaskError
from trainable.metrics import COMMON_METRICS, METRIC_NAME

NORMALISED_MATCH = "normalised_match"
_QUOTES_AND_BRACKETS = frozenset({"Ps", "Pe", "Pi", "Pf"})  # Unicode categories
_MARKS_IN_FRONT = frozenset("\"'`¡¿")
_MARKS_BEHIND = frozenset("\"'`.,;:!?\u2026\u3002\uff0c\u3001\uff1b\uff1a\uff01\uff1f")


class AnswerMetric(Protocol):
    """A function of a decoded answer; more is better."""

    def __call__(self, *, answer: str, reference: str, prompt: str) -> float:
        """Score one answer.

        Args:
            answer: what the model wrote, without special tokens.
            reference: the completion in the data, as its tokens read, without special tokens.
            prompt: what the model was given.
        """
        ...


def normalised(text: str) -> str:
    """Lower case, runs of white space as one space, and no marks at the ends.

    Marks are quotes and brackets at either end and `. , ; : ! ?` and the like behind. A sign or a
    point in front of a number stays: -5 is not 5. A text of marks alone stays as it is.
    """
    plain = " ".join(text.lower().split())
    begin, end = 0, len(plain)
    while begin < end and _is_mark(plain[begin], _MARKS_IN_FRONT):
        begin += 1
    while end > begin and _is_mark(plain[end - 1], _MARKS_BEHIND):
        end -= 1
    return plain[begin:end].strip() or plain


def normalised_match(*, answer: str, reference: str, prompt: str) -> float:
    """Whether the answer is the reference once both are normalised."""
    return float(normalised(answer) == normalised(reference))


def metric_name(spec: str) -> str:
    """The name under which a metric's scores stand: `normalised_match`, or the function's name."""
    return spec.rpartition(":")[2].rpartition(".")[2] if ":" in spec else spec


def repeated_names(specs: Iterable[str]) -> list[str]:
    """Names that stand for two metrics, or for one of those that all tasks share."""
    seen, repeated = set(COMMON_METRICS), list[str]()
    for spec in dict.fromkeys(specs):
        if spec in COMMON_METRICS:
            continue
        name = metric_name(spec)
        if name in seen or (name == NORMALISED_MATCH and spec != name):
            repeated.append(name)
        seen.add(name)
    return repeated


def absolute_metric(spec: str, folder: Path) -> str:
    """A metric that names a file of `folder`, or a module in one, with the file's whole path.

    An installed module stays as it is.
    """
    module, colon, function = spec.rpartition(":")
    if not colon:
        return spec
    names = [module] if module.endswith(".py") else [module.replace(".", "/") + ".py"]
    for name in names:
        path = folder / name
        if module.endswith(".py") or path.is_file():
            # Without `..`, as data files: one search, from wherever it is started.
            return f"{os.path.abspath(path)}:{function}"
    return spec


def load_answer_metrics(
    specs: Iterable[str], *, field: str | None = None
) -> dict[str, AnswerMetric]:
    """The metrics, by name, that need a decoded answer; the common ones are passed over.

    Args:
        specs: `normalised_match`, `module:function` or `path/to/file.py:function`.
        field: the list that they stand in, for messages.

    Raises:
        TaskError: for one that cannot be imported, or names that clash.
    """
    specs = list(specs)
    if repeated := repeated_names(specs):
        raise TaskError(
            f"{field or 'metrics'}: the name {repeated[0]!r} stands for two metrics: rename the "
            "function, so that each metric has a name of its own"
        )
    loaded = dict[str, AnswerMetric]()
    for place, spec in enumerate(specs):
        if spec not in COMMON_METRICS and metric_name(spec) not in loaded:
            where = "metrics" if field is None else f"{field}.{place}"
            loaded[metric_name(spec)] = _load(spec, where)
    return loaded


def metric_files(specs: Iterable[str]) -> list[str]:
    """The files with the functions of one's own; an installed module without one has none."""
    files = []
    for source in dict.fromkeys(spec.rpartition(":")[0] for spec in specs):
        if source.endswith(".py"):
            files.append(source)
        elif source and (origin := _origin(source)) is not None:
            files.append(origin)
    return files


def judge(
    name: str, metric: AnswerMetric, where: str, *, answer: str, reference: str, prompt: str
) -> float:
    """One score.

    Args:
        where: the row, for the message.

    Raises:
        TaskError: if the metric raises, ends the process, or returns what is no finite number.
    """
    try:
        value = metric(answer=answer, reference=reference, prompt=prompt)
    except (Exception, SystemExit) as error:  # a person's own code may raise anything, or exit
        raise TaskError(
            f"metric {name} raised {type(error).__name__}: {error} at {where}, answer "
            f"{_short(answer)}: answers can be any text, empty ones too; make it return a number"
        ) from error
    number = _number(value)
    if number is None:
        raise TaskError(
            f"metric {name} returned {_short(value)} at {where}, answer {_short(answer)}: expected "
            "a finite number"
        )
    return number


def judge_all(
    metrics: Mapping[str, AnswerMetric], where: str, *, answer: str, reference: str, prompt: str
) -> dict[str, float]:
    """All scores of one answer. Raises TaskError as `judge` does."""
    return {
        name: judge(name, metric, where, answer=answer, reference=reference, prompt=prompt)
        for name, metric in metrics.items()
    }


def _load(spec: str, where: str) -> AnswerMetric:
    if spec == NORMALISED_MATCH:
        return normalised_match
    source, colon, function = spec.rpartition(":")
    if not colon or not source or not METRIC_NAME.fullmatch(metric_name(spec)):
        raise TaskError(
            f"{where}: {spec!r} is no metric: write {', '.join(COMMON_METRICS)}, "
            f"{NORMALISED_MATCH}, or module:function for one of your own"
        )
    found: Any = _module(source, spec, where)
    for part in function.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise TaskError(f"{where}: {spec!r}: {source} has no function {function!r}")
    loaded: AnswerMetric = found
    return loaded


def _module(source: str, spec: str, where: str) -> ModuleType:
    """The module of a metric; a file's is kept out of `sys.modules`, where others may be."""
    try:
        if not source.endswith(".py"):
            return importlib.import_module(source)
        name = "latentune_metric_" + re.sub(r"\W", "_", source)
        found = importlib.util.spec_from_file_location(name, source)
        assert found is not None and found.loader is not None  # it ends in .py
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:  # a person's own code may raise anything, or exit
        raise TaskError(
            f"{where}: {spec!r} cannot be imported ({type(error).__name__}: {error}): give an "
            "installed module, or a file beside the search file"
        ) from error


def _origin(module: str) -> str | None:
    """The file of an installed module, if it has one."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # loading it says what is wrong
        return None
    return found.origin if found is not None and found.has_location else None


def _number(value: object) -> float | None:
    """A finite number: bool, int, float, or what numpy and torch call one."""
    if not isinstance(value, SupportsFloat):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None  # e.g. an array of several
    return number if math.isfinite(number) else None


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _is_mark(character: str, marks: frozenset[str]) -> bool:
    return (
        character.isspace()
        or character in marks
        or unicodedata.category(character) in _QUOTES_AND_BRACKETS
    )
