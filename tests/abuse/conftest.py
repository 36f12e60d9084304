"""The command line, for abuse."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.abuse.searches import Terminal


@pytest.fixture
def terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Terminal:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # main sets its own
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "0")
    return Terminal(tmp_path, monkeypatch, capsys)
