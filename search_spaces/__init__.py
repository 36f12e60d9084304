"""Declarative search spaces: what is searched, as plain data. Never imports torch."""

from search_spaces.drawing import (
    Configuration,
    check_legal,
    enumerate_configs,
    legal_points,
    sample_configs,
)
from search_spaces.errors import ConstraintError, Problem, SpaceError
from search_spaces.fitting import params_of
from search_spaces.presets import PRESETS
from search_spaces.space import Axis, Space

__all__ = [
    "PRESETS",
    "Axis",
    "Configuration",
    "ConstraintError",
    "Problem",
    "Space",
    "SpaceError",
    "check_legal",
    "enumerate_configs",
    "legal_points",
    "params_of",
    "sample_configs",
]
