"""The oldest versions that are safe and work, checked before anything is done with them.

Older ones let others run code (`tests/abuse/test_supply_chain.py` lists what each closes), or
lack what is called here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from types import MappingProxyType

from packaging.version import InvalidVersion, Version

from orchestrator.errors import FloorError

FLOORS: Mapping[str, str] = MappingProxyType(
    {"ray": "2.59", "mlflow": "3.17", "torch": "2.10", "transformers": "5.17"}
)


def check_floors(installed: Callable[[str], str] = metadata.version) -> None:
    """Refuse to start on a version below a floor.

    Args:
        installed: a distribution's version; raises PackageNotFoundError.

    Raises:
        FloorError: naming every package that is too old or missing.
    """
    wrong = [
        f"{name} {found or 'is missing'}, expected {floor} or newer"
        for name, floor in FLOORS.items()
        if (found := _found(name, installed)) is None or _is_below(found, floor)
    ]
    if wrong:
        raise FloorError(
            f"{'; '.join(wrong)}: install the tested set (`make .venv/ready`), or "
            f"`pip install -U {' '.join(repr(f'{n}>={v}') for n, v in FLOORS.items())}`"
        )


def _found(name: str, installed: Callable[[str], str]) -> str | None:
    try:
        return installed(name)
    except metadata.PackageNotFoundError:
        return None


def _is_below(found: str, floor: str) -> bool:
    try:
        return Version(found) < Version(floor)
    except InvalidVersion:  # a build of one's own: nobody else can tell
        return False
