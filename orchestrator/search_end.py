"""The end of a run: name the candidate, write the result, wait until tracking has all of it."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from orchestrator.config import SearchConfig
from orchestrator.events import EventLog
from orchestrator.files import write_atomic
from orchestrator.folders import SearchFolder
from orchestrator.ledger import Ledger, LedgerTrial, TrialStatus
from orchestrator.manifest import manifest_sha256
from orchestrator.opening import engine_options
from orchestrator.report.telling import tell_report
from orchestrator.reproduction import describe_search
from orchestrator.results import (
    Estimate,
    SearchResult,
    SearchState,
    TimeSplit,
    best_trial,
    build_result,
    spent_record,
)
from orchestrator.search_data import SearchData
from orchestrator.tracking import read_cursor, start_shipper, wait_shipped

logger = logging.getLogger(__name__)

SHIPPING_WAIT_S = 60.0
_SHIPPER_LEAVES_S = 5.0


@dataclass(frozen=True, kw_only=True)
class SearchEnd:
    """Ends a run of a search.

    Args:
        uri: of the tracking store.
    """

    config: SearchConfig
    folder: SearchFolder
    data: SearchData
    ledger: Ledger
    events: EventLog
    uri: str

    def finish(
        self,
        state: SearchState,
        split: TimeSplit | None = None,
        shipper: subprocess.Popen[bytes] | None = None,
        estimate: Estimate | None = None,
    ) -> SearchResult:
        """Write down how the search stands; of a run that trained, tell it too.

        Args:
            split: where the time went; None for a run that trained nothing.
            shipper: one that runs already.
            estimate: what the run was expected to take.
        """
        trials = self.ledger.all()
        result = build_result(
            self.config,
            self.folder,
            trials,
            state=_judged(state, trials),
            tracking_uri=self.uri,
            time=split,
            spent=spent_record(self.config, trials, self.ledger.study),
        ).model_copy(update={"estimate": estimate})
        if split is not None:
            self._tell(result)
        write_atomic(self.folder.result, result.model_dump_json(indent=1).encode())
        self._wait_for_tracking(self.events.next_seq - 1, shipper)
        return result

    def _tell(self, result: SearchResult) -> None:
        self._tell_candidate()
        if self.config.tracking.report and result.state != "interrupted":
            tell_report(self.events, self.folder, result)
        outcome = {"best": result.best, "summary": result.summary}
        ended = {"state": result.state, "trials": result.counts, "result": outcome}
        ended["reproduce"] = self._save_reproduction()
        self.events.append("search_ended", ended)

    def _tell_candidate(self) -> None:
        best = best_trial(self.ledger.all(), self.config.objective)
        if best is None:
            return
        uid = self.folder.uid(best.number)
        artifact = self.folder.artifact(uid)
        self.events.append(
            "candidate",
            {
                "artifact": str(artifact.relative_to(self.folder.path)),
                "manifest_sha256": manifest_sha256(artifact),
                "metrics": dict(best.metrics),
                "name": best.config.strategy.short_name,
            },
            trial_uid=uid,
            attempt=best.attempts,
        )

    def _save_reproduction(self) -> dict[str, Any]:
        """Write all that the search's numbers depend on; the same as plain data."""
        threads = engine_options(self.config)[1]["threads"]
        found = describe_search(self.events.read(), self.data.digests, threads)
        write_atomic(self.folder.reproduction, found.model_dump_json(indent=1).encode())
        return found.model_dump(mode="json")

    def _wait_for_tracking(self, seq: int, shipper: subprocess.Popen[bytes] | None) -> None:
        if shipper is None and read_cursor(self.folder.path).next_seq > seq:
            return
        shipper = shipper or start_shipper(self.folder.path, self.uri)
        if wait_shipped(self.folder.path, seq, SHIPPING_WAIT_S, shipper=shipper):
            with suppress(subprocess.TimeoutExpired):
                shipper.wait(_SHIPPER_LEAVES_S)  # it has nothing left to do: no zombie stays
        else:
            logger.warning(
                "tracking at %s does not have everything yet; run the search again to send the "
                "rest (see %s)", self.uri, self.folder.path / "shipper.log",
            )  # fmt: skip


def _judged(state: SearchState, trials: Sequence[LedgerTrial]) -> SearchState:
    """A search is failed, and not complete, where nothing that was trained succeeded."""
    trained = [t for t in trials if t.status is not TrialStatus.INFEASIBLE or t.failure is not None]
    all_failed = all(t.status is TrialStatus.FAILED or t.failure is not None for t in trained)
    return "failed" if state == "complete" and all_failed else state
