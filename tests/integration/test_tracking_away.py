"""A whole search while its MLflow takes connections and never answers; and its end with `sync`."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import SearchConfig
from tests.integration import test_cli
from tests.integration.small_search import Left, scratch_folder, small_config
from tests.integration.test_cli import Shell

pytestmark = [
    pytest.mark.slow,
    pytest.mark.faults,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
]

# No process of this command can import MLflow, unless it is another program: the shipper.
WITHOUT_MLFLOW = "import sys; sys.modules['mlflow'] = None; "


@contextmanager
def half_open() -> Iterator[str]:
    """The URI of a server that takes connections, as many as there come, and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(256)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_driver_that_could_not_even_call_mlflow_ends_well_and_sync_delivers(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data: dict[str, Any] = small_config(tiny_folder)
    monkeypatch.setattr(
        test_cli,
        "COMMAND",
        [sys.executable, "-c", WITHOUT_MLFLOW + "from orchestrator.cli import main; main()"],
    )
    with scratch_folder() as scratch, half_open() as uri:
        shell = Shell(tmp_path, scratch)
        away = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
        at_home = dict(shell.environment)
        shell.environment |= away
        code, out, err = shell("run", shell.file(data))
        assert code == 0, out + err
        assert "does not have everything yet (it does not answer" in err
        assert "`latentune sync small` delivers the rest" in err
        monkeypatch.undo()
        shell.environment = at_home
        code, out, err = shell("sync", "small", "--json")
        assert code == 0, out + err
        told = json.loads(out)
        assert (told["pending"], told["closed"]) == (0, False)
        assert told["delivered"] == told["events"] > 6
        Left(shell.home, SearchConfig.model_validate(data)).check_whole(trials=3)
