"""The preset `full` with another delimiter: a space in Python is a function that returns one."""

from __future__ import annotations

from typing import Any

from search_spaces.presets import full

COMMA, NEWLINE = ",", "\n"


def full_newline() -> Any:
    """Every axis of `full`, with latents at line ends where it has them at commas."""
    return _with_newlines(full().tree)


def _with_newlines(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: NEWLINE if key == "pattern" and value == COMMA else _with_newlines(value)
            for key, value in node.items()
        }
    return node
