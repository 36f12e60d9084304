"""A search's configuration: what a user writes in `search.yaml`, checked as a whole.

    name: generation-quickstart
    task: {kind: generation}
    space: quick
    budget: {trials: 24}

`load_search` reads a file and reports all its problems at once, as `ConfigError`; a model
built in Python raises pydantic's own `ValidationError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError

from orchestrator.errors import ConfigError
from orchestrator.field_problems import field_problems
from orchestrator.folders import by_content
from orchestrator.search_config import SearchConfig, as_section, contradictions
from orchestrator.sections import (
    BaseModelConfig,
    BudgetConfig,
    ConfirmConfig,
    DataConfig,
    EngineConfig,
    SamplerConfig,
    SpaceConfig,
    StoppingConfig,
    TrackingConfig,
)
from orchestrator.task_sections import (
    TASK_SECTIONS,
    GenerationTaskConfig,
    RecordsTaskConfig,
    TaskSection,
)
from orchestrator.yaml_source import Location, parse_yaml, read_yaml, refusal
from search_spaces.errors import Problem, shown

__all__ = [
    "BaseModelConfig",
    "BudgetConfig",
    "ConfirmConfig",
    "DataConfig",
    "EngineConfig",
    "GenerationTaskConfig",
    "RecordsTaskConfig",
    "SamplerConfig",
    "SearchConfig",
    "SpaceConfig",
    "StoppingConfig",
    "TrackingConfig",
    "config_differences",
    "load_search",
]

Marks: TypeAlias = dict[Location, str]  # where a value was written: `line 4`, `--set budget.steps`


def load_search(path: str | Path, overrides: Sequence[str] = ()) -> SearchConfig:
    """Read a search file.

    Args:
        path: the YAML file; relative paths in it are relative to its folder.
        overrides: `dotted.key=value`, each value in YAML; a later one wins.

    Raises:
        ConfigError: with every problem of the file and of the overrides.
    """
    source = str(path)
    read = read_yaml(Path(path))
    if not isinstance(read.data, dict):
        if read.problems:
            raise ConfigError(read.problems, source)
        wrong = "it is empty" if read.data is None else f"got {shown(read.data)} at the top"
        raise refusal(source, wrong, "write a mapping with at least name, task, space and budget")
    marks = {location: f"line {line}" for location, line in read.lines.items() if location}
    problems = list(read.problems)
    for text in overrides:
        problems += _override(read.data, text, marks)
    try:
        config = SearchConfig.model_validate(read.data, context=_context(path))
    except ValidationError as error:
        found = field_problems(error, SearchConfig)
        found += contradictions(_usable(read.data, found, _context(path)))
        unread = [p for p in found if not any(_below(p.location, spot) for spot in read.unread)]
        raise ConfigError(problems + [_marked(p, marks) for p in unread], source) from None
    if problems:
        raise ConfigError(problems, source)
    return config


_MAY_GROW = tuple(
    ("budget", key) for key in ("trials", "time_s", "total_steps", "tokens", "gpu_hours", "money")
)
_MAY_CHANGE = (("budget", "price_per_hour"), ("tracking", "on_end"))


def config_differences(old: SearchConfig, new: SearchConfig) -> list[str]:
    """What keeps `new` from going on with the search of `old`, one line per field.

    Budgets that grew are none; `budget.steps` is the horizon of every trial's schedule,
    so another one makes another search. The order of keys counts within `space.axes` alone,
    where it is the order of triggers and of choices. Uploaded files are the same by content,
    in whichever LATENTUNE_HOME they lie.
    """
    before, after = (dict(_leaves(config.model_dump(mode="json"))) for config in (old, new))
    lines = []
    for path in dict.fromkeys([*before, *after]):
        if path[0] == "confirm":  # it comes after the search and changes nothing of it
            continue
        one, other = (leaves.get(path, _Absent) for leaves in (before, after))
        # 1, 1.0 and true are equal, but not the same
        if path in _MAY_CHANGE or repr(_by_content(one)) == repr(_by_content(other)):
            continue
        if path not in _MAY_GROW:
            lines.append(f"{'.'.join(path)}: {_said(one)} -> {_said(other)}")
        elif not _grew(one, other):
            lines.append(f"{'.'.join(path)}: {_said(one)} -> {_said(other)} (it may only grow)")
    if [path for path in before if path in after] != [path for path in after if path in before]:
        lines.append("space.axes: the same fields in another order")
    return lines


def _override(data: dict[str, Any], text: str, marks: Marks) -> Iterator[Problem]:
    """Apply one `--set`; yields what is wrong with it."""
    path, equals, raw = text.partition("=")
    location = tuple(part.strip() for part in path.split("."))
    mark = f"--set {path.strip()}"
    if not equals or not all(location):
        wrong, remedy = "expected dotted.key=value", "write for example --set budget.trials=8"
        yield Problem(path="--set", got=shown(text), wrong=wrong, remedy=remedy)
        return
    try:
        value = parse_yaml(raw, mark)
    except ConfigError as error:
        yield replace(error.problems[0], path=path, where="--set")
        return
    yield from (replace(problem, path=path, where="--set") for problem in value.problems)
    node = data
    if "space" in data:
        data["space"] = as_section(data["space"])
    for depth, key in enumerate(location[:-1], start=1):
        if node.get(key) is None:
            node[key] = {}
            marks.setdefault(location[:depth], mark)
        if not isinstance(node[key], dict):
            wrong = f"{'.'.join(location[:depth])} is {shown(node[key])}, which has no fields"
            yield Problem(path=path, wrong=wrong, remedy="set that key as a whole", where="--set")
            return
        node = node[key]
    node[location[-1]] = value.data
    for spot in [spot for spot in marks if _below(spot, location)]:
        del marks[spot]
    marks[location] = mark


def _context(path: str | Path) -> dict[str, Path]:
    return {"folder": Path(path).absolute().parent}


def _usable(
    data: Mapping[str, Any], problems: Sequence[Problem], context: dict[str, Path]
) -> Callable[[str], Any]:
    """Looks values up by dotted path: as written, or the default; None where refused."""
    refused = [problem.location for problem in problems]

    def value(path: str) -> Any:
        task = _usable_task(data.get("task"), refused, context)
        if path == "task":
            return task
        location = tuple(path.split("."))
        if any(_below(location, spot) or _below(spot, location) for spot in refused):
            return None
        section, _, key = path.partition(".")
        if section == "task":
            return getattr(task, key)
        info = SearchConfig.model_fields[section]
        if not key:
            return data.get(section)
        model: Any = info.annotation
        return data.get(section, {}).get(key, model.model_fields[key].default)

    return value


def _usable_task(
    data: Any, refused: Sequence[Location], context: dict[str, Path]
) -> TaskSection | None:
    """The task section without the fields that were refused, if that is one."""
    if not isinstance(data, dict) or data.get("kind") not in TASK_SECTIONS:
        return None
    names = {spot[1] for spot in refused if spot[:1] == ("task",) and len(spot) > 1}
    kept = {key: value for key, value in data.items() if key not in names}
    try:
        return TASK_SECTIONS[data["kind"]].model_validate(kept, context=context)
    except ValidationError:
        return None


def _marked(problem: Problem, marks: Marks) -> Problem:
    """The problem with the mark of the nearest thing that was written."""
    spots = [problem.location[:depth] for depth in range(len(problem.location), 0, -1)]
    mark = next((marks[spot] for spot in spots if spot in marks), "")
    return replace(problem, where=", ".join(part for part in (mark, problem.where) if part))


def _below(location: Location, top: Location) -> bool:
    return location[: len(top)] == top


class _Absent:
    """Stands for a key that one of two configurations lacks."""


def _leaves(data: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path, data


def _by_content(value: Any) -> Any:
    """A value whose uploaded files are named by what is in them."""
    if isinstance(value, list):
        return [_by_content(item) for item in value]
    return by_content(value) if isinstance(value, str) else value


def _grew(one: Any, other: Any) -> bool:
    return other is None or (one is not None and other > one)


def _said(value: object) -> str:
    return "absent" if value is _Absent else "null" if value is None else str(value)
