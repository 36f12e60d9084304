import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import TrackingError
from orchestrator.manifest import manifest_sha256
from orchestrator.registry import download
from orchestrator.tracking import read_cursor, start_shipper, wait_shipped
from orchestrator.ui import serve_ui
from tests.integration.mlflow_server import fetch, free_port, server
from tests.integration.tracked_search import NAME, OBJECTIVE, Stored, TrackedSearch, tracked_search


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackedSearch]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracked_search(tmp_path / "home") as search:
        yield search


@pytest.mark.slow
def test_all_arrives_once_though_the_server_came_late_and_went_away(
    search: TrackedSearch, tmp_path: Path
) -> None:
    port, store = free_port(), tmp_path / "server"
    search.start()
    shipper = start_shipper(search.folder, f"http://127.0.0.1:{port}", deadline_s=240)
    try:
        _wait_for_text(search.folder / "shipper.log", "does not answer")
        assert read_cursor(search.folder).next_seq == 0
        with server(store, port, proxied=True):
            assert wait_shipped(search.folder, 0, 60, shipper=shipper)
        last = _rest_of_the_story(search)
        assert not wait_shipped(search.folder, last, 1, shipper=shipper)
        with server(store, port, proxied=True) as url:
            assert wait_shipped(search.folder, last, 60, shipper=shipper)
            assert shipper.wait(30) == 0
            stored = Stored(url)
            before = stored.everything()
            search.set_back(0)
            search.uri = url
            assert search.ship()
            assert Stored(url).everything() == before
            pulled = download(NAME, to=tmp_path / "to", home=tmp_path, tracking_uri=url)
    finally:
        shipper.kill()
        shipper.wait()
    assert stored.count == 2
    assert stored.runs["parent"].info.status == "FINISHED"
    assert [step for step, _ in before[1][f"{NAME}-0"][-1][OBJECTIVE]] == [20, 60]
    assert manifest_sha256(pulled) == manifest_sha256(search.folder / f"artifacts/{NAME}-0")


def _rest_of_the_story(search: TrackedSearch) -> int:
    uid = search.start_trial(0)
    search.report(uid, 20, 0.1)
    search.end_trial(uid, "complete", 60, 0.5)
    search.nominate(uid)
    return search.end()


def _wait_for_text(path: Path, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in path.read_text():
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.05)


@pytest.mark.slow
def test_the_ui_shows_and_hands_out_what_the_shipper_stored(
    search: TrackedSearch, tmp_path: Path
) -> None:
    search.tell_all()
    assert search.ship()
    run_id = Stored(search.uri).runs[f"{NAME}-3"].info.run_id
    with server(search.home, free_port(), proxied=False) as url:
        stored = Stored(url)
        assert stored.count == 5
        (folder,) = stored.files(f"{NAME}-3", "latents")
        query = f"path={folder}/latents.safetensors&run_uuid={run_id}"
        assert fetch(f"{url}/get-artifact?{query}") == f"latents of {NAME}-3 ".encode()
        version = "name=quick&version=2&path=README.md"
        readme = fetch(f"{url}/model-versions/get-artifact?{version}")
        assert readme == f"# {NAME}-3".encode()
        pulled = download(NAME, to=tmp_path / "to", tracking_uri=url)
        assert manifest_sha256(pulled) == manifest_sha256(search.folder / f"artifacts/{NAME}-3")


def test_a_busy_port_and_an_open_host_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(TrackingError, match="--port"):
            serve_ui(tmp_path, port=taken.getsockname()[1])
    with pytest.raises(TrackingError, match="without a password"):
        serve_ui(tmp_path, host="0.0.0.0")  # noqa: S104


def test_where_tracking_goes_to_a_server_the_ui_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert serve_ui(tmp_path) == "http://tracking:5000"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_ui_is_served_until_it_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    urls: list[str] = []

    def interrupt(url: str) -> None:
        assert fetch(f"{url}/health") == b"OK"
        urls.append(url)
        raise KeyboardInterrupt

    port = free_port()
    assert serve_ui(tmp_path / "home", port=port, on_ready=interrupt) == urls[0]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))  # the worker is gone, too
