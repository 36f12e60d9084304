"""A ledger that is lost while Ray Tune runs ends the search with our message, not with Tune's."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.config import SearchConfig
from orchestrator.console import BAD_INPUT, FAILED, exit_code
from orchestrator.driver import run
from orchestrator.errors import LedgerError, SearchLockedError
from orchestrator.study.place import STORAGE_VARIABLE
from tests.integration.small_search import NAME, Watching, small_config
from trainable.errors import LatentuneError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's and MLflow's own
    pytest.mark.usefixtures("ray_session"),
]

TAKE_OVER = "UPDATE latentune_leases SET token = token + 1, host = 'far', pid = 7, until = 9e9"
LOSE = "ALTER TABLE trial_user_attributes RENAME TO lost"


@pytest.mark.parametrize(
    ("statement", "error", "message", "code"),
    [
        (TAKE_OVER, SearchLockedError, f"{NAME}' was taken over by process 7 on far", BAD_INPUT),
        (LOSE, LedgerError, "cannot be used: .*no such table", FAILED),
    ],
)
def test_a_driver_that_lost_its_ledger_says_so(
    statement: str,
    error: type[LatentuneError],
    message: str,
    code: int,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path / 'shared.db'}")
    config = SearchConfig.model_validate(small_config(tiny_folder))
    lose = Watching(lambda _: change(tmp_path / "shared.db", statement))
    with pytest.raises(error, match=message) as caught:
        run(config, home=tmp_path / "home", watcher=lose)
    assert exit_code(caught.value) == code
    written = (tmp_path / "home" / "searches" / NAME / "events.jsonl").read_bytes()
    assert b"search_ended" not in written


def change(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        connection.execute(statement)
        connection.commit()
