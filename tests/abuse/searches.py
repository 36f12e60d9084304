"""What the abuse tests start from: a sound search file, and the command line in this process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from orchestrator.cli import main
from orchestrator.yaml_source import dump_yaml

GOOD: dict[str, Any] = {
    "name": "good",
    "task": {"kind": "generation"},
    "space": "quick",
    "budget": {"trials": 1},
}


class Said(NamedTuple):
    """How a verb ended."""

    code: int
    out: str
    err: str


class Terminal:
    """`latentune` in this process; an error that escapes it is no exit code."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, streams: pytest.CaptureFixture[str]
    ) -> None:
        self.folder = folder
        self.home = folder / "home"
        self._patch = patch
        self._streams = streams
        patch.chdir(folder)
        patch.setenv("LATENTUNE_HOME", str(self.home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def __call__(self, *arguments: str) -> Said:
        self._patch.setattr(sys, "argv", ["latentune", *arguments])
        self._streams.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        assert isinstance(code, int)
        return Said(code, *self._streams.readouterr())

    def file(self, data: dict[str, Any] | str | bytes) -> str:
        path = self.folder / "search.yaml"
        text = dump_yaml(data) if isinstance(data, dict) else data
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)
