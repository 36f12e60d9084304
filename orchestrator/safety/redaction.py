"""No secret of the environment in anything that is written down or shown.

    HF_TOKEN=hf_abc…       "401 for hf_abc…"   becomes   "401 for [HF_TOKEN]"

Nothing here puts a secret anywhere; but messages of other libraries, and of a person's own
metrics, may quote one.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any

from orchestrator.safety.terminal import harmless

LEAST_CHARACTERS = 8  # of a shorter one, ordinary words might be redacted
_SECRET = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|(API|ACCESS|PRIVATE|ACCOUNT)_?KEY",
    flags=re.IGNORECASE,
)
_NO_SECRET = re.compile(r"_(PATH|FILE|DIR|MODE|URL|URI|ENDPOINT|NAME|TTL|S)$", flags=re.IGNORECASE)


@dataclass(frozen=True)
class Redaction:
    """Takes secrets out of texts.

    Args:
        secrets: name to value.
    """

    secrets: Mapping[str, str]

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> Redaction:
        """Of every variable whose name says that it is one."""
        found = os.environ if environment is None else environment
        named = {n: v for n, v in found.items() if _SECRET.search(n) and not _NO_SECRET.search(n)}
        return cls({n: v for n, v in named.items() if len(v) >= LEAST_CHARACTERS})

    def of_text(self, text: str) -> str:
        """The text with each secret's name in its place."""
        if not self.secrets:
            return text
        return self._pattern.sub(lambda found: f"[{self._names[found[0]]}]", text)

    @cached_property
    def _names(self) -> Mapping[str, str]:
        """Each secret as it is and as JSON holds it, to its name."""
        forms = {json.dumps(value)[1:-1]: name for name, value in self.secrets.items()}
        return forms | {value: name for name, value in self.secrets.items()}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._names, key=len, reverse=True)
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
