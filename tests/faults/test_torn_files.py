"""An event log that a crash cut anywhere in its last event: it opens without it, and says so."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from benchmarks.fault_names import Fault
from orchestrator.events import EventLog, read_events
from tests.faults.tally import Tally

pytestmark = pytest.mark.faults


def test_an_event_log_cut_at_every_byte_of_its_last_event(
    tmp_path: Path, tally: Tally, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        for number in range(4):
            log.append("trial_report", {"step": number, "metrics": {"x": 0.5}}, f"t-{number}", 1)
    whole = path.read_bytes()
    begin = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(begin, len(whole)):
        with tally.trying(Fault.EVENTS_CUT, "at most that event is lost; said"):
            path.write_bytes(whole[:cut])
            caplog.clear()
            with caplog.at_level(logging.WARNING), EventLog(path) as log:
                assert log.next_seq == 3
                log.append("trial_report", {"step": 9}, "t-9", 1)
            assert (cut == begin) or "cut off" in caplog.text
            assert [event.payload["step"] for event in read_events(path)] == [0, 1, 2, 9]
