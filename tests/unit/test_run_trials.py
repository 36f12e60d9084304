"""Tune wraps what its parts raise; what was ours comes out as it was raised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.tune.error import TuneError

from orchestrator import ray_session
from orchestrator.disk import naming_any_full_disk
from orchestrator.errors import LedgerError, SearchLockedError
from trainable.errors import DiskFullError


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *errors: Exception) -> None:
    """Run trials with a Tune that fails, each error in the handling of the one before."""

    def chained(rest: tuple[Exception, ...]) -> None:
        if len(rest) > 1:
            try:
                chained(rest[:-1])
            except Exception:  # noqa: BLE001  (as Tune does)
                raise rest[-1]  # noqa: B904
        raise rest[0]

    class Tuner:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def fit(self) -> None:
            chained(errors)

    monkeypatch.setattr("orchestrator.ray_session.tune.Tuner", Tuner)
    monkeypatch.setattr(ray_session, "own_node_resource", lambda: None)
    parts: list[Any] = [None, None, None]
    ray_session.run_trials(parts[0], parts[1], parts[2], 1, tmp_path)


@pytest.mark.parametrize("own", [SearchLockedError("by process 7 on far"), LedgerError("away")])
def test_our_errors_come_out_of_tune_s(
    own: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(type(own)) as caught:
        run(monkeypatch, tmp_path, OSError("socket"), own, TuneError("Traceback ..."))
    assert caught.value is own
    assert isinstance(own.__context__, OSError)


def test_a_full_disk_is_still_seen_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(28, "No space left on device")
    with pytest.raises(DiskFullError), naming_any_full_disk(tmp_path):
        run(monkeypatch, tmp_path, full, LedgerError("cannot be used"), TuneError("Traceback"))


def test_tune_s_own_errors_stay_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TuneError, match="Trials did not complete"):
        run(monkeypatch, tmp_path, ValueError("x"), TuneError("Trials did not complete"))
