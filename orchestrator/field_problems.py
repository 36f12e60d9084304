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
        if details["type"] == "default_factory_not_called":
            continue  # because of another problem, which is told
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            location, _, _ = _walk(model, details["loc"])
            problems += [_within(location, problem) for problem in cause.problems]
        else:
            problems.append(_problem(details, model))
    return problems


def _problem(details: ErrorDetails, model: type[BaseModel]) -> Problem:
    location, owner, info = _walk(model, details["loc"])
    path = _dotted(location)
    if details["type"] == "missing":
        wrong, remedy = "the key is missing", f"add {location[-1]}: {_asked(info)}"
        return Problem(path=path, wrong=wrong, remedy=remedy, location=location)
    if details["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_tag(details, location, info)
    if details["type"] == "extra_forbidden":
        wrong = "the key is unknown"
        remedy = did_you_mean(str(location[-1]), owner.model_fields)
    elif details["type"] == "literal_error":
        wrong = f"expected {details['ctx']['expected']}"
        options = re.findall(r"'([^']*)'", details["ctx"]["expected"])
        remedy = did_you_mean(str(details["input"]), options)
    elif details["type"] in ("model_type", "model_attributes_type"):
        wrong = "expected a mapping of fields"
        sections = _models_in(info.annotation) if info else []
        known = sections[0].model_fields if len(sections) == 1 else None
        remedy = f"known: {', '.join(known)}" if known else f"give {_asked(info)}"
    else:
        wrong = _SEQUENCE.sub("list such as [8, 12]", details["msg"])
        wrong = wrong.replace("Input should be", "expected")
        wrong = wrong.replace("Value should have", "expected").replace(" after validation", "")
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
    if isinstance(info.default, BaseModel) or info.default_factory is not None:
        return f"{info.description}, or leave it out"
    return f"{info.description}, or leave it out for {_plain(info.default)}"


def _wrong_tag(details: ErrorDetails, location: Location, info: FieldInfo | None) -> Problem:
    """A section whose `kind` is missing or unknown."""
    name = details["ctx"]["discriminator"].strip("'")
    spot = (*location, name)
    kinds = [_kind(section, name) for section in _models_in(info.annotation)] if info else []
    if details["type"] == "union_tag_not_found":
        wrong, remedy = "the key is missing", f"add {name}: one of {', '.join(kinds)}"
        return Problem(path=_dotted(spot), wrong=wrong, remedy=remedy, location=spot)
    got = details["input"][name] if isinstance(details["input"], dict) else details["ctx"]["tag"]
    *first, last = map(repr, kinds)
    wrong = f"expected {', '.join(first)} or {last}"
    remedy = did_you_mean(str(got), kinds)
    return Problem(path=_dotted(spot), got=shown(got), wrong=wrong, remedy=remedy, location=spot)


def _walk(
    model: type[BaseModel], location: Location
) -> tuple[Location, type[BaseModel], FieldInfo | None]:
    """Follow one of pydantic's locations.

    Returns:
        The location as it stands in the file, where pydantic puts a section's kind in between;
        the model that holds its last name; and that name's field, None where it is unknown.
    """
    written: list[str | int] = []
    owner, info = model, None
    inner: type[BaseModel] | None = model  # where the next name is looked up
    sections: dict[str, type[BaseModel]] = {}  # by kind, where a kind comes next
    for place, key in enumerate(location):
        if key in sections:
            inner, sections = sections[str(key)], {}
            continue
        if inner is None or isinstance(key, int):
            written += location[place:]
            break
        owner, info = inner, inner.model_fields.get(key)
        written.append(key)
        models = [] if info is None else _models_in(info.annotation)
        inner = models[0] if models else None if info else owner
        if info is not None and isinstance(info.discriminator, str):
            sections = {_kind(one, info.discriminator): one for one in models}
    return tuple(written), owner, info


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    candidates = (annotation, *get_args(annotation))
    return [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]


def _kind(section: type[BaseModel], name: str) -> str:
    """The one value of a section's discriminating field."""
    return str(get_args(section.model_fields[name].annotation)[0])


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)  # JSON is YAML


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))
