"""Which of a search's registered latents: the words behind `NAME@`.

NAME              the champion, else the candidate with a warning
NAME@champion     an alias, wherever a person has moved it
NAME@v3           a registered version
NAME@trial-7      the latents that trial 7 ended with, registered or not
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.errors import SearchNotFoundError
from orchestrator.search_config import SLUG

_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VERSION = re.compile(r"v([0-9]{1,9})")  # MLflow keeps such names from being aliases
_TRIAL = re.compile(r"trial-([0-9]{1,9})")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One search, and at most one of an alias, a version and a trial."""

    name: str
    alias: str | None = None
    version: int | None = None
    trial: int | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name} version {self.version}"
        if self.trial is not None:
            return f"trial {self.trial} of {self.name}"
        return self.name if self.alias is None else f"{self.name}@{self.alias}"


def choose(
    name: str,
    alias: str | None = None,
    version: int | None = None,
    trial: int | None = None,
) -> Choice:
    """Read `NAME@…` and the options beside it.

    Raises:
        SearchNotFoundError: for what can be no name, or for two that contradict each other.
    """
    bare, _, behind = name.partition("@")
    if not re.fullmatch(SLUG, bare):
        raise SearchNotFoundError(
            f"{bare!r} is no search name: expected [a-z0-9][a-z0-9._-]{{0,63}}, "
            "for example generation-quickstart"
        )
    choices = {_read(bare, behind)} if behind else set()
    if alias is not None:
        choices.add(Choice(name=bare, alias=alias))
    if version is not None:
        choices.add(Choice(name=bare, version=version))
    if trial is not None:
        choices.add(Choice(name=bare, trial=trial))
    if len(choices) > 1:
        both = " and ".join(sorted(map(str, choices)))
        raise SearchNotFoundError(f"{both} contradict each other: give one of them")
    choice = choices.pop() if choices else Choice(name=bare)
    if choice.alias is not None and not _is_alias(choice.alias):
        raise SearchNotFoundError(
            f"{choice.alias!r} is no alias: expected a word, for example candidate; a version is "
            "v3, a trial is trial-7"
        )
    return choice


def _is_alias(text: str) -> bool:
    """Whether MLflow takes it, and `NAME@…` would mean it."""
    taken = text == "latest" or _VERSION.fullmatch(text) or _TRIAL.fullmatch(text)
    return bool(_ALIAS.fullmatch(text)) and not taken


def _read(name: str, behind: str) -> Choice:
    if version := _VERSION.fullmatch(behind):
        return Choice(name=name, version=int(version[1]))
    if trial := _TRIAL.fullmatch(behind):
        return Choice(name=name, trial=int(trial[1]))
    return Choice(name=name, alias=behind)
