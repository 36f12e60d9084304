"""A search's end comes by its report: a process of its own, an event, artifacts in MLflow."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from orchestrator.events import EventLog
from orchestrator.folders import SearchFolder
from orchestrator.report.telling import tell_report
from tests.integration.tracked_search import NAME, Stored, tracked_search
from tests.unit.records import record, result
from tests.unit.test_report import tell_search


@pytest.mark.slow
def test_the_report_is_written_and_told(tmp_path: Path) -> None:
    folder = tell_search(tmp_path / "home")
    with EventLog(folder.events) as log:
        tell_report(log, folder, result([record(1, "start4", 0.5)], best="tiny-1"))
        told = list(log.read())[-1]
    assert told.type == "report"
    assert told.payload["files"] == ["report/report.html", "report/report.md"]
    assert "`start4`" in told.payload["note"]
    assert "</html>" in (folder.path / "report/report.html").read_text()


@pytest.mark.slow
def test_a_report_that_fails_costs_the_search_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = SearchFolder.of(tmp_path, "empty")
    folder.path.mkdir(parents=True)
    with EventLog(folder.events) as log, caplog.at_level(logging.WARNING):
        tell_report(log, folder, result([], name="empty"))
        assert [event.payload["files"] for event in log.read()] == [[]]
    assert "latentune report empty" in caplog.text


def test_mlflow_has_the_report_the_note_and_the_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracked_search(tmp_path / "home") as search:
        search.start()
        search.report_on("**start4** is the best", page="<html>")
        search.end()
        assert search.ship()
        search.set_back(0)
        assert search.ship()  # told again: the same files, note and datasets
        stored = Stored(search.uri)
    parent = stored.runs["parent"]
    assert parent.data.tags["mlflow.note.content"] == "**start4** is the best"
    assert stored.files("parent", "report") == ["report/page.html"]
    assert parent.inputs is not None
    listed = {i.dataset.name: i.tags[0].value for i in parent.inputs.dataset_inputs}
    assert listed == {f"{NAME}/train": "training", f"{NAME}/val_id": "validation"}
    assert all(len(i.dataset.digest) == 32 for i in parent.inputs.dataset_inputs)
