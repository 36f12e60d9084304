"""Load an engine's model, and start the thread that owns it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from trainable.base_model.loading import load_base
from trainable.engine import Engine
from trainable.loop import EngineLoop


def load_loop(
    base: Mapping[str, Any], options: Mapping[str, Any], here: Callable[[str], str]
) -> EngineLoop:
    """An engine, loaded and running.

    Args:
        base, options: as `EngineActor`.
        here: where a path of the driver's machine is on this one.

    Raises:
        BaseModelError: as `load_base` and the engine's self-test do.
    """
    left = dict(options)
    torch.set_num_threads(left.pop("threads") or os.cpu_count() or 1)
    compiled = left.pop("compile", False)
    # Several threads add a group's gradients in the order in which they come, otherwise.
    torch.use_deterministic_algorithms(left.get("deterministic", False))
    loaded = load_base(**{**base, "path": here(base["path"])})
    return EngineLoop(Engine(replace(loaded, path=base["path"]), compiled=compiled, **left))
