from pathlib import Path

import pytest

from orchestrator.errors import TrackingError, TrackingUriError
from orchestrator.tracking import (
    Cursor,
    artifact_root,
    default_uri,
    read_cursor,
    tracking_uri,
    write_cursor,
)


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
