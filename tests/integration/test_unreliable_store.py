"""A store that fails, answers too late, loses answers and cuts files: all arrives exactly once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, REQUEST_LIMIT_EXCEEDED
from requests.exceptions import ReadTimeout

from orchestrator.shipper import Watch, ship
from orchestrator.tracking import read_cursor
from tests.integration.tracked_search import NAME, Stored, TrackedSearch, tracked_search

ERRORS: list[Callable[[], Exception]] = [
    lambda: MlflowException("500: the database is away", INTERNAL_ERROR),
    lambda: MlflowException("429: too many requests", REQUEST_LIMIT_EXCEEDED),
    lambda: ReadTimeout("no answer within 60 s"),
]


@dataclass
class Faults:
    """When and how calls go wrong.

    Args:
        left: how many faults there will still be.
        pending: what the store does too late, and after how many further calls.
    """

    dice: random.Random
    left: int
    kinds: tuple[str, ...] = ("refused", "answer lost", "late", "cut")
    made: list[str] = field(default_factory=list)
    pending: list[tuple[int, Callable[[], Any]]] = field(default_factory=list)
    calls: int = 0

    def call(self, name: str, call: Callable[[], Any], cut: Callable[[], None]) -> Any:
        self.calls += 1
        due = [action for at, action in self.pending if at <= self.calls]
        self.pending = [(at, action) for at, action in self.pending if at > self.calls]
        for action in due:
            action()
        if not self.left or self.dice.random() > 0.4:
            return call()
        self.left -= 1
        kind = self.dice.choice(self.kinds)
        self.made.append(f"{kind}: {name}")
        if kind == "cut" and name == "log_artifacts":
            call()
            return cut()
        if kind == "answer lost":
            call()
        if kind == "late" and name == "create_run":
            self.pending.append((self.calls + 5, call))
        raise self.dice.choice(ERRORS)()


class Unreliable:
    """MLflow's client, with faults."""

    def __init__(self, faults: Faults, **options: Any) -> None:
        self._faults = faults
        self._real = MlflowClient(**options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *a, **k: self._faults.call(
            name, partial(getattr(self._real, name), *a, **k), lambda: self._cut(*a)
        )

    def _cut(self, run_id: str, _: str, folder: str) -> None:
        """As if the connection had ended in the middle of a file."""
        uri = self._real.get_run(run_id).info.artifact_uri
        path = Path(url2pathname(urlsplit(uri).path)) / folder / "latents.safetensors"
        path.write_bytes(path.read_bytes()[:-4])


class Restless(Watch):
    """A watch that does not really sleep."""

    def sleep(self, seconds: float) -> None:
        pass


class Brief(Watch):
    """A watch that is over after the first failure."""

    def sleep(self, seconds: float) -> None:
        self._deadline = 0.0


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackedSearch]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracked_search(tmp_path / "home") as search:
        search.tell_all()
        yield search


def holds(stored: Stored) -> Any:
    """What a store holds, without what differs between any two: its own ids."""
    count, runs, versions, aliases = stored.everything()
    plain = {}
    for uid, (_, info, params, tags, points) in runs.items():
        own = {key: tags[key] for key in tags if not key.startswith("mlflow.parent")}
        plain[uid] = (info, params, own, points)
    tagged = sorted((int(number), sorted(tags.items())) for number, _, tags in versions)
    return count, plain, tagged, aliases


@pytest.fixture(scope="module")
def reliably(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a store without faults holds, but for times: each telling of the story has its own."""
    with tracked_search(tmp_path_factory.mktemp("reliable") / "home") as search:
        search.tell_all()
        assert search.ship()
        return without_times(holds(Stored(search.uri)))


def without_times(held: Any) -> Any:
    count, runs, versions, aliases = held
    timeless = {}
    for uid, ((name, status, _, _), params, tags, points) in runs.items():
        kept = {key: tags[key] for key in tags if key != "search_id"}
        timeless[uid] = (name, status, params, kept, points)
    return count, timeless, versions, aliases


@pytest.mark.parametrize("seed", range(2))
def test_all_arrives_exactly_once_whatever_the_store_does(
    search: TrackedSearch, monkeypatch: pytest.MonkeyPatch, reliably: Any, seed: int
) -> None:
    faults = Faults(random.Random(seed), left=25)  # noqa: S311 - a test's, not a secret's
    monkeypatch.setattr("orchestrator.sink.MlflowClient", partial(Unreliable, faults))
    assert ship(search.folder, search.uri, until_ended=True, watch=Restless(120))
    assert not faults.left, "the faults were to come"
    assert without_times(holds(Stored(search.uri))) == reliably, faults.made
    assert read_cursor(search.folder).trouble is None


def test_a_run_that_a_late_store_made_twice_is_there_once(
    search: TrackedSearch, monkeypatch: pytest.MonkeyPatch, reliably: Any
) -> None:
    faults = Faults(random.Random(1), left=6, kinds=("late",))  # noqa: S311
    monkeypatch.setattr("orchestrator.sink.MlflowClient", partial(Unreliable, faults))
    assert ship(search.folder, search.uri, until_ended=True, watch=Restless(120))
    assert "late: create_run" in faults.made
    assert without_times(holds(Stored(search.uri))) == reliably


def test_what_was_cut_on_its_way_up_is_named_and_sent_again(
    search: TrackedSearch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults(random.Random(2), left=3, kinds=("cut",))  # noqa: S311
    monkeypatch.setattr(faults.dice, "random", lambda: 1.0)
    client = partial(Unreliable, faults)
    monkeypatch.setattr("orchestrator.sink.MlflowClient", client)
    original = Faults.call

    def only_uploads(self: Faults, name: str, call: Any, cut: Any) -> Any:
        monkeypatch.setattr(self.dice, "random", lambda: 0.0 if name == "log_artifacts" else 1.0)
        return original(self, name, call, cut)

    monkeypatch.setattr(Faults, "call", only_uploads)
    assert ship(search.folder, search.uri, until_ended=True, watch=Restless(120))
    assert faults.made == ["cut: log_artifacts"] * 3
    assert "latents.safetensors (" in caplog.text
    assert "cut short or changed on its way" in caplog.text
    stored = Stored(search.uri)
    path = stored.client.download_artifacts(
        stored.runs[f"{NAME}-0"].info.run_id, stored.files(f"{NAME}-0", "latents")[0]
    )
    assert (Path(path) / "latents.safetensors").read_bytes() == f"latents of {NAME}-0 ".encode()


def test_why_nothing_moves_is_written_down(
    search: TrackedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(random.Random(0), left=1000, kinds=("refused",))  # noqa: S311
    monkeypatch.setattr(faults.dice, "random", lambda: 0.0)
    monkeypatch.setattr("orchestrator.sink.MlflowClient", partial(Unreliable, faults))
    assert not ship(search.folder, search.uri, until_ended=True, watch=Brief(120))
    cursor = read_cursor(search.folder)
    assert cursor.next_seq == 0
    assert "it does not answer: " in str(cursor.trouble)


def test_what_a_person_put_beside_the_runs_is_left_alone(search: TrackedSearch) -> None:
    assert search.ship()
    stored = Stored(search.uri)
    parent = stored.runs["parent"].info
    tags = {"mlflow.parentRunId": parent.run_id}
    own = stored.client.create_run(parent.experiment_id, tags=tags, run_name="my notes")
    search.set_back(0)
    assert search.ship()
    assert stored.client.get_run(own.info.run_id).info.lifecycle_stage == "active"


@contextmanager
def answering(status: int | None, wait_s: float = 0.0) -> Iterator[str]:
    """The URI of a server that answers everything alike, late, or hangs up (None)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            over.wait(wait_s)
            if status is not None:
                self.send_response(status)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(b"<html>not today</html>")

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    over = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            over.set()
            server.shutdown()
            serving.join()


@pytest.mark.parametrize(
    ("status", "wait_s"), [(500, 0), (503, 0), (429, 0), (200, 60), (None, 0)], ids=str
)
def test_a_server_that_answers_so_is_away(
    search: TrackedSearch, monkeypatch: pytest.MonkeyPatch, status: int | None, wait_s: float
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with answering(status, wait_s) as uri:
        assert not ship(search.folder, uri, until_ended=True, watch=Brief(60))
    cursor = read_cursor(search.folder)
    assert cursor.next_seq == 0
    assert "it does not answer: " in str(cursor.trouble)
    assert search.ship()
    assert Stored(search.uri).count == 5
