"""A search on a cluster, as Python and the `jobs` verbs look after it."""

from __future__ import annotations

import time
from collections.abc import Iterator

from orchestrator.errors import JobError, SearchLockedError
from orchestrator.jobs.cluster import Cluster, open_cluster
from orchestrator.jobs.marked_lines import for_people, read_progress, read_told_result
from orchestrator.jobs.records import JobListing, JobLog, JobRecord
from orchestrator.results import SearchResult

_POLL_S = 1.0
_TAIL_LINES = 12
_STOPPING_S = 150.0  # longer than Ray's patience, after which it kills


class SubmittedSearch:
    """A search that was submitted.

    Args:
        cluster: where.
        job: its job.
    """

    def __init__(self, cluster: Cluster, job: JobRecord) -> None:
        self._cluster = cluster
        self._job = job

    @classmethod
    def find(
        cls, name: str, *, address: str | None = None, accept_open_cluster: bool = False
    ) -> SubmittedSearch:
        """The last job of a search.

        Raises:
            SearchNotFoundError: if the cluster knows none.
            ClusterError, ClusterAccessError: if it cannot be asked.
        """
        cluster = open_cluster(address, accept_open_cluster=accept_open_cluster)
        return cls(cluster, cluster.job(name))

    @property
    def name(self) -> str:
        """The search's name."""
        return self._job.name

    @property
    def submission_id(self) -> str:
        """What Ray calls the job."""
        return self._job.submission_id

    def __repr__(self) -> str:
        return f"SubmittedSearch({self.submission_id!r} on {self._cluster.address!r})"

    def status(self) -> JobRecord:
        """How the job stands now, with progress, and with the result once it has ended."""
        job, log = self._cluster.refresh(self._job), self._cluster.log(self._job)
        if job.is_open:
            return job.model_copy(update={"progress": read_progress(log)})
        result = read_told_result(log)
        if result is None or result.state == "running":
            return job
        return job.model_copy(update={"result": result, "state": result.state})

    def logs(self) -> str:
        """What the job has written, without the lines for programs."""
        return "".join(for_people([self._cluster.log(self._job)]))

    def log_record(self) -> JobLog:
        """The same as a record."""
        return JobLog(name=self.name, submission_id=self.submission_id, log=self.logs())

    def follow(self) -> Iterator[str]:
        """The same line by line as it is written, until the job has ended."""
        return for_people(self._cluster.follow(self._job))

    def stop(self, timeout_s: float = _STOPPING_S) -> JobRecord:
        """Pause the search: running trials save their state; submitting again goes on.

        Raises:
            SearchLockedError: if it does not run.
            TimeoutError: if it still does after `timeout_s` seconds.
        """
        job = self._cluster.refresh(self._job)
        if not job.is_open:
            raise SearchLockedError(
                f"search {self.name!r} is {job.state} on {job.address}: there is nothing to stop"
            )
        self._cluster.stop(job)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float | None = None) -> JobRecord:
        """Wait for the job's end.

        Raises:
            TimeoutError: if it has not ended after `timeout_s` seconds; it goes on.
        """
        deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while self._cluster.refresh(self._job).is_open:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"search {self.name!r} has not ended within {timeout_s:.0f} s; it goes on: see "
                    f"`latentune jobs status {self.name}`"
                )
            time.sleep(_POLL_S)
        return self.status()

    def result(self) -> SearchResult:
        """What the search found, as `run` returns it; paths in it are the cluster's.

        Raises:
            JobError: if it has not ended, or ended without a result.
        """
        job = self.status()
        if job.is_open:
            raise JobError(f"search {self.name!r} is {job.state}: wait for its end with wait()")
        if job.result is None:
            told = job.message or "\n".join(self.logs().splitlines()[-_TAIL_LINES:])
            raise JobError(
                f"{self.submission_id} is {job.state} and has left no result; submit the search "
                f"again to go on with it. Its last words:\n{told}"
            )
        return job.result


def list_jobs(cluster: Cluster) -> JobListing:
    """The last job of every search of a cluster."""
    return JobListing(address=cluster.address, jobs=cluster.jobs())
