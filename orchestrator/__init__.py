"""Searches over insertion strategies: run them, pull what they found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.config import SearchConfig, load_search
    from orchestrator.driver import run
    from orchestrator.handover import pull
    from orchestrator.jobs.submission import submit
    from orchestrator.jobs.submitted import SubmittedSearch

__all__ = ["SearchConfig", "SubmittedSearch", "load_search", "pull", "run", "submit"]

_HOMES = {
    "SearchConfig": "orchestrator.config",
    "SubmittedSearch": "orchestrator.jobs.submitted",
    "load_search": "orchestrator.config",
    "pull": "orchestrator.handover",
    "run": "orchestrator.driver",
    "submit": "orchestrator.jobs.submission",
}


def __getattr__(name: str) -> Any:
    """Import on first use: a thin trial must not pay for torch, nor a driver for transformers."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
