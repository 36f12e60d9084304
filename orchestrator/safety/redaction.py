"""No secret of the environment in anything that is written down or shown.

    HF_TOKEN=hf_abc…             "401 for hf_abc…"       becomes   "401 for [HF_TOKEN]"
    DATABASE_URL=db://me:pw@h    "no db://me:pw@h"       becomes   "no [DATABASE_URL]"
                                 "no db://me:pw@h/x"     becomes   "no [DATABASE_URL]/x"

A variable is secret by its name, or holds a secret: the login of a URL, `AccountKey=…` in a
connection string. Nothing here puts a secret anywhere; but messages of other libraries, and of a
person's own metrics, may quote one.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from orchestrator.safety.terminal import harmless

LEAST_CHARACTERS = 8  # of a shorter one, ordinary words might be redacted
_SECRET = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|(API|ACCESS|PRIVATE|ACCOUNT)_?KEY"
    r"|CONNECTION_?STRING|_(KEY|PASS|PWD|DSN)(?![A-Z])",
    flags=re.IGNORECASE,
)
_NO_SECRET = re.compile(r"_(PATH|FILE|DIR|MODE|URL|URI|ENDPOINT|NAME|TTL|S)$", flags=re.IGNORECASE)
# scheme, user and, where there is one, password: as browsers read a URL, and as SQLAlchemy does,
# to which a password may have slashes.
_LOGINS = (
    re.compile(r"(?<![\w+.-])(\w[\w+.-]*)://([^\s/?#:@]*)(?::([^\s/?#]*))?@"),
    re.compile(r"(?<![\w+.-])(?!https?:)(\w[\w+.-]*)://([^\s/?#:@]*):([^\s@]*)@"),
)
_PARTS = re.compile(r"(?:^|[?&;\s])(\w+)=([^&;\s]+)")  # of a query, or of a connection string


@dataclass(frozen=True)
class Redaction:
    """Takes secrets out of texts.

    Args:
        secrets: each secret to what stands in its place.
    """

    secrets: Mapping[str, str]

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> Redaction:
        """Of every variable whose name says that it is one, or whose value holds one."""
        found = os.environ if environment is None else environment
        return cls({s: told for name, value in found.items() for s, told in _secrets(name, value)})

    def of_text(self, text: str) -> str:
        """The text with each secret's name in its place."""
        if not self.secrets:
            return text
        return self._pattern.sub(lambda found: self._forms[found[0]], text)

    @cached_property
    def _forms(self) -> Mapping[str, str]:
        """Each secret as it is and as JSON holds it, to what stands in its place."""
        in_json = {json.dumps(secret)[1:-1]: told for secret, told in self.secrets.items()}
        return {**in_json, **self.secrets}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._forms, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))

    def of_data(self, data: Any) -> Any:
        """Plain data with every text in it redacted."""
        if not self.secrets:
            return data
        if isinstance(data, str):
            return self.of_text(data)
        if isinstance(data, Mapping):
            return {self.of_data(key): self.of_data(value) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self.of_data(value) for value in data]
        return data


def _secrets(name: str, value: str) -> Iterator[tuple[str, str]]:
    """What of a variable is secret, each with what stands in its place."""
    told = f"[{name}]"
    within = [part for key, part in _PARTS.findall(value) if _is_secret(f"_{key}")]
    for scheme, user, password in _logins(value):
        if password:
            yield f"{user}:{password}@", f"{told}@"
            # A password that is the user's name is none, and other things have that name, too.
            within.append("" if password == user else password)
        elif user and scheme.lower() in ("http", "https"):  # a token in the place of a user
            within.append(user)
    alone = [value, *value.splitlines()] if within or _is_secret(name) else []
    for secret in (*alone, *within, *map(unquote, within)):
        if len(secret) >= LEAST_CHARACTERS:
            yield secret, told


def _logins(value: str) -> Iterator[tuple[str, str, str]]:
    if "://" in value and "@" in value:
        for form in _LOGINS:
            yield from form.findall(value)


def _is_secret(name: str) -> bool:
    return bool(_SECRET.search(name)) and not _NO_SECRET.search(name)


class SafeFormatter(logging.Formatter):
    """Log lines without secrets and without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return harmless(Redaction.of_environment().of_text(super().format(record)))


def safe_logging(level: int, form: str) -> None:
    """Send logs to stderr, through `SafeFormatter`."""
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter(form))
    logging.basicConfig(level=level, handlers=[handler])


def tell_crash(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What `sys.excepthook` does, without secrets: for an error that nobody expected."""
    text = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(harmless(Redaction.of_environment().of_text(text)))
