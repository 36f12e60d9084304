"""The end of a run: name the candidate, write the result, wait until tracking has all of it."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config import SearchConfig
from orchestrator.events import EventLog
from orchestrator.files import write_atomic
from orchestrator.folders import SearchFolder
from orchestrator.ledger import Ledger, LedgerTrial, TrialStatus
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
from orchestrator.told_manifests import told_manifests
from orchestrator.tracking import finish_shipping

logger = logging.getLogger(__name__)


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
        *,
        tells: bool = False,
    ) -> SearchResult:
        """Write down how the search stands; of a run that trained, tell it too.

        Args:
            split: where the time went; None for a run that trained nothing.
            shipper: one that runs already.
            estimate: what the run was expected to take.
            tells: whether to tell it of a run that trained nothing: the one before could not.

        Raises:
            SearchLockedError: where another driver took the search over.
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
        if split is not None or tells:
            self._tell(result)
        self.events.fence()
        write_atomic(self.folder.result, result.model_dump_json(indent=1).encode())
        finish_shipping(self.folder.path, self.uri, self.events.next_seq - 1, shipper)
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
        artifact, told = self.folder.artifact(uid), told_manifests(self.events.read()).get(uid)
        if told is None:
            logger.warning("trial %s is the best, but its last state was damaged: no latents", uid)
            return
        self.events.append(
            "candidate",
            {
                "artifact": str(artifact.relative_to(self.folder.path)),
                "manifest_sha256": told[-1],  # not that of what the disk makes of it by now
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


def _judged(state: SearchState, trials: Sequence[LedgerTrial]) -> SearchState:
    """A search is failed, and not complete, where nothing that was trained succeeded."""
    trained = [t for t in trials if t.status is not TrialStatus.INFEASIBLE or t.failure is not None]
    all_failed = all(t.status is TrialStatus.FAILED or t.failure is not None for t in trained)
    return "failed" if state == "complete" and all_failed else state
