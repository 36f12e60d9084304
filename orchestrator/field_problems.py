"""From pydantic's errors to problems that tell a user what to write.

budget.stepz (line 5): got 540, the key is unknown; did you mean `steps`?
budget.trials (line 4): got 'many', expected a valid integer; give the number of trials
"""

from __future__ import annotations

import json
import re
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from orchestrator.errors import ConfigError
from orchestrator.yaml_source import Location
from search_spaces.errors import Problem, did_you_mean, shown

_SEQUENCE = re.compile(r"valid (tuple|list)")


def field_problems(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """All problems behind one refusal of `model`.

    Args:
        error: what validation raised.
        model: the model that was validated; its fields' descriptions make the remedies.
    """
    problems: list[Problem] = []
    for details in error.errors(include_url=False):
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            problems += [_within(details["loc"], problem) for problem in cause.problems]
        else:
            problems.append(_problem(details, model))
    return problems


def _problem(details: ErrorDetails, model: type[BaseModel]) -> Problem:
    location = details["loc"]
    owner, info = _field(model, location)
    path = _dotted(location)
    if details["type"] == "missing":
        wrong, remedy = "the key is missing", f"add {location[-1]}: {_asked(info)}"
        return Problem(path=path, wrong=wrong, remedy=remedy, location=location)
    if details["type"] == "extra_forbidden":
        wrong = "the key is unknown"
        remedy = did_you_mean(str(location[-1]), owner.model_fields)
    elif details["type"] == "literal_error":
        wrong = f"expected {details['ctx']['expected']}"
        options = re.findall(r"'([^']*)'", details["ctx"]["expected"])
        remedy = did_you_mean(str(details["input"]), options)
    elif details["type"] == "model_type":
        wrong = "expected a mapping of fields"
        section = _model_in(info.annotation) if info else None
        remedy = f"known: {', '.join(section.model_fields)}" if section else "nest its fields"
    else:
        wrong = _SEQUENCE.sub("list such as [8, 12]", details["msg"])
        wrong = wrong.replace("Input should be", "expected")
        remedy = f"give {_asked(info)}"
    got = shown(details["input"])
    return Problem(path=path, got=got, wrong=wrong, remedy=remedy, location=location)


def _within(location: Location, problem: Problem) -> Problem:
    """The problem of a field's own validator, with the field's path before its own."""
    path = ".".join(part for part in (_dotted(location), problem.path) if part)
    return Problem(
        path=path,
        wrong=problem.wrong,
        remedy=problem.remedy,
        got=problem.got,
        where=problem.where,
        location=(*location, *problem.location),
    )


def _asked(info: FieldInfo | None) -> str:
    """What the field is: `the number of trials, or leave it out for 8`."""
    if info is None or info.description is None:
        return "another value"
    if info.is_required():
        example = f", for example {_plain(info.examples[0])}" if info.examples else ""
        return info.description + example
    if isinstance(info.default, BaseModel):
        return f"{info.description}, or leave it out"
    return f"{info.description}, or leave it out for {_plain(info.default)}"


def _field(model: type[BaseModel], location: Location) -> tuple[type[BaseModel], FieldInfo | None]:
    """The model that holds the location's last name, and its field; None where unknown."""
    info: FieldInfo | None = None
    for key in location:
        if isinstance(key, int):
            break
        inner = _model_in(info.annotation) if info else model
        if inner is None:
            break
        model, info = inner, inner.model_fields.get(key)
    return model, info


def _model_in(annotation: Any) -> type[BaseModel] | None:
    candidates = (annotation, *get_args(annotation))
    models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
    return models[0] if models else None


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)  # JSON is YAML


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))
