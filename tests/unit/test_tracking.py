import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import tracking
from orchestrator.errors import TrackingError, TrackingUriError
from orchestrator.tracking import (
    Cursor,
    ShipperKeeper,
    artifact_root,
    default_uri,
    finish_shipping,
    read_cursor,
    store_id,
    tracking_uri,
    write_cursor,
)
from tests.integration.small_search import wait_until


def test_flag_beats_environment_beats_file_beats_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert tracking_uri(tmp_path, "http://file", flag="http://flag") == "http://flag"
    assert tracking_uri(tmp_path, "http://file") == "http://environment"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri(tmp_path, "http://file") == "http://file"
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "./mlruns", "mlruns"])
def test_a_folder_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(TrackingError, match="sqlite:"):
        tracking_uri(tmp_path, flag=uri)


def test_a_server_decides_about_artifacts_by_itself(tmp_path: Path) -> None:
    assert artifact_root(tmp_path, "https://server") is None
    assert artifact_root(tmp_path, default_uri(tmp_path)) == f"file://{tmp_path}/mlartifacts"


def test_a_cursor_reads_back_and_damage_means_from_the_start(tmp_path: Path) -> None:
    assert read_cursor(tmp_path) == Cursor()
    cursor = Cursor(next_seq=7, last_time=1763763211.123456)
    write_cursor(tmp_path, cursor)
    assert read_cursor(tmp_path) == cursor
    assert [path.name for path in tmp_path.iterdir()] == ["shipped.json"]
    (tmp_path / "shipped.json").write_text('{"next_seq": 7')
    assert read_cursor(tmp_path) == Cursor()


def test_a_scheme_that_mlflow_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrackingUriError, match=r"tracking.uri='bogus://x'.*sqlite"):
        tracking_uri(tmp_path, "bogus://x")
    assert tracking_uri(tmp_path, "postgresql+psycopg2://db/x") == "postgresql+psycopg2://db/x"


class Process:
    """A shipper's process, which lives until it is said to have ended."""

    def __init__(self, code: int | None = None) -> None:
        self.code = code

    def poll(self) -> int | None:
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        if timeout is None:
            return 0
        raise subprocess.TimeoutExpired("shipper", timeout)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """The shippers that were started; none of them does anything."""
    made: list[Process] = []

    def start(*_: object) -> Process:
        made.append(Process())
        return made[-1]

    monkeypatch.setattr(tracking, "start_shipper", start)
    monkeypatch.setattr(tracking, "_TROUBLE_WAIT_S", 0.0)
    return made


URI = "http://me:secret@host:5000"


def finish(folder: Path, shipper: Process | None) -> bool:
    return finish_shipping(folder, URI, 6, shipper)  # type: ignore[arg-type]


def test_a_driver_does_not_wait_for_a_store_that_is_away(
    tmp_path: Path, started: list[Process], caplog: pytest.LogCaptureFixture
) -> None:
    write_cursor(tmp_path, Cursor(next_seq=3, trouble="it does not answer: refused"))
    assert not finish(tmp_path, Process())
    assert not started
    assert "tracking at http://host:5000 does not have everything yet" in caplog.text
    assert "(it does not answer: refused)" in caplog.text
    assert f"`latentune sync {tmp_path.name}` delivers the rest" in caplog.text


def test_a_driver_waits_no_longer_than_a_minute(
    tmp_path: Path,
    started: list[Process],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tracking, "SHIPPING_WAIT_S", 0.01)
    assert not finish(tmp_path, Process())
    assert "it takes its time" in caplog.text


def test_a_driver_whose_shipper_died_starts_another(
    tmp_path: Path, started: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SHIPPING_WAIT_S", 0.01)
    assert not finish(tmp_path, Process(code=-9))
    assert len(started) == 1


def test_a_shipper_that_is_killed_during_a_search_is_started_again(
    tmp_path: Path, started: list[Process]
) -> None:
    now = 0.0
    keeper = ShipperKeeper(tmp_path, URI, lambda: now)
    now = 100.0
    keeper.look()
    assert len(started) == 1
    started[0].code = -9
    keeper.look()
    assert len(started) == 2
    started[1].code = 1
    now = 129.0
    keeper.look()  # one that is gone at once is not started at every look
    assert len(started) == 2
    now = 131.0
    keeper.look()
    assert len(started) == 3
    assert id(keeper.process) == id(started[2])


def test_a_shipper_that_cannot_be_started_again_ends_no_search(
    tmp_path: Path, started: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    keeper = ShipperKeeper(tmp_path, URI, lambda: now)
    started[0].code, now = -9, 100.0

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(tracking, "start_shipper", full)
    keeper.look()
    assert id(keeper.process) == id(started[0])


def test_a_shipper_is_waited_for_whatever_becomes_of_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a process that goes on has a zombie, and Python complains of it."""

    def start(*_: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(tracking, "start_shipper", start)
    process = ShipperKeeper(tmp_path, URI).process
    wait_until(lambda: process.returncode == 0)  # which is set by a wait alone


def test_nothing_is_started_where_all_was_delivered(tmp_path: Path, started: list[Process]) -> None:
    write_cursor(tmp_path, Cursor(next_seq=7, trouble="of before"))
    assert finish(tmp_path, None)
    assert finish(tmp_path, Process())
    assert not started


def test_trouble_tells_no_cursor_from_another_and_stores_differ() -> None:
    assert Cursor(next_seq=1) == Cursor(next_seq=1, trouble="away")
    assert store_id("http://a:b@host") == store_id("http://host") != store_id("http://other")


def test_nothing_that_a_driver_imports_imports_mlflow() -> None:
    """The driver's thread cannot make a tracking call: it has nothing to make one with."""
    modules = ["driver", "confirmation", "confirmation_work", "tune_adapters", "ray_session"]
    code = "import sys\nsys.modules['mlflow'] = None\n"
    code += "\n".join(f"import orchestrator.{module}" for module in modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
