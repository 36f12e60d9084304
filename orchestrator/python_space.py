"""A space written in Python: `spaces.py:my_space` names a function that returns its tree."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestrator.errors import ConfigError
from search_spaces import Space
from search_spaces.errors import Problem, shown

_SPEC = re.compile(r"(?P<source>.+):(?P<function>[A-Za-z_]\w*)")


def load_tree(spec: str, folder: Path) -> Any:
    """The tree that a person's function returns; what the function raises is passed on.

    Args:
        spec: `path/to/file.py:function` or `module:function`.
        folder: what a relative path is relative to.

    Raises:
        ConfigError: for a function that is not there.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise refused(spec, "it names no function", "write spaces.py:my_space")
    module = _module(spec, match["source"], folder)
    function = getattr(module, match["function"], None)
    if not callable(function):
        wrong = f"{match['source']} has no function {match['function']!r}"
        raise refused(spec, wrong, "name a function that returns a space")
    found = function()
    return found.tree if isinstance(found, Space) else found


def refused(spec: str, wrong: str, remedy: str) -> ConfigError:
    """What is wrong with `space.python`."""
    problem = Problem(
        path="python", got=shown(spec), wrong=wrong, remedy=remedy, location=("python",)
    )
    return ConfigError([problem])


def _module(spec: str, source: str, folder: Path) -> ModuleType:
    path = folder / Path(source).expanduser()
    if not source.endswith(".py"):
        try:
            return importlib.import_module(source)
        except ImportError as error:
            wrong = f"it cannot be imported: {error}"
            raise refused(spec, wrong, "write file.py:function") from None
    if not path.is_file():
        raise refused(spec, f"there is no file {path}", "paths are relative to the search file")
    name = "latentune_space_" + re.sub(r"\W", "_", str(path))
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None and found.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
