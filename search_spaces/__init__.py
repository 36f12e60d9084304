"""Declarative search spaces: what is searched, as plain data. Never imports torch."""

from search_spaces.drawing import (
    Configuration,
    check_legal,
    enumerate_configs,
    legal_points,
    sample_configs,
)
from search_spaces.errors import Problem, SpaceError
from search_spaces.presets import PRESETS
from search_spaces.space import Axis, Space

__all__ = [
    "PRESETS",
    "Axis",
    "Configuration",
    "Problem",
    "Space",
    "SpaceError",
    "check_legal",
    "enumerate_configs",
    "legal_points",
    "sample_configs",
]
