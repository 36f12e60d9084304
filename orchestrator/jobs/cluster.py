"""A cluster's Jobs server: Ray's client, with our errors and our records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient
from tenacity import Retrying, retry_if_exception_message, stop_after_delay, wait_fixed

from orchestrator.environment import variable_set
from orchestrator.errors import (
    ClusterAccessError,
    ClusterError,
    SearchLockedError,
    SearchNotFoundError,
)
from orchestrator.jobs.access import ADDRESS_VARIABLES, Access, open_access
from orchestrator.jobs.following import pieces
from orchestrator.jobs.records import JobRecord, latest, read_job
from trainable.errors import LatentuneError

_NO_AGENT_YET = r"(?s).*No available agent to submit job"
_AGENT_COMES_S = 90.0
_RETRY_S = 0.5


class Cluster:
    """A cluster that lets us in.

    Args:
        access: its address, and the token.

    Raises:
        ClusterError: if no Jobs server answers there, or one too old.
    """

    def __init__(self, access: Access) -> None:
        self.address = access.url
        # Ray's client lets its variables overrule an argument; here a flag beats the environment.
        with variable_set(ADDRESS_VARIABLES[0], access.url), _plain_errors(access.url):
            self._client = JobSubmissionClient(headers=access.headers)

    def __repr__(self) -> str:
        return f"Cluster({self.address!r})"

    def jobs(self) -> list[JobRecord]:
        """The last job of every search."""
        with _plain_errors(self.address):
            found = self._client.list_jobs()
        read = (read_job(details, self.address) for details in found)
        return latest(job for job in read if job is not None)

    def job(self, name: str) -> JobRecord:
        """The last job of a search. Raises SearchNotFoundError if there is none."""
        jobs = self.jobs()
        for job in jobs:
            if job.name == name:
                return job
        known = ", ".join(job.name for job in jobs) or "none"
        raise SearchNotFoundError(
            f"{self.address} knows no job of a search {name!r}; known: {known}. After a restart of "
            "the cluster, submit the search again: it goes on, or says at once how it ended"
        )

    def refresh(self, job: JobRecord) -> JobRecord:
        """The same job as it stands now."""
        with _plain_errors(self.address):
            details = self._client.get_job_info(job.submission_id)
        found = read_job(details, self.address)
        assert found is not None, "it is a search's, by its submission id"
        return found

    def send(
        self, submission_id: str, entrypoint: str, runtime_env: Mapping[str, Any], **metadata: str
    ) -> None:
        """Upload and start a job.

        Raises:
            SearchLockedError: if another client was faster.
        """
        with _plain_errors(self.address):
            try:
                _patient()(
                    self._client.submit_job,
                    entrypoint=entrypoint,
                    submission_id=submission_id,
                    runtime_env=dict(runtime_env),
                    metadata=metadata,
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                raise SearchLockedError(
                    f"{submission_id} has just been submitted to {self.address} by somebody "
                    "else: see `latentune jobs list`"
                ) from None

    def stop(self, job: JobRecord) -> None:
        """Ask a job to end; one that has ended is left alone."""
        with _plain_errors(self.address):
            self._client.stop_job(job.submission_id)

    def log(self, job: JobRecord) -> str:
        """All that a job has written."""
        with _plain_errors(self.address):
            return str(self._client.get_job_logs(job.submission_id))

    def follow(self, job: JobRecord) -> Iterator[str]:
        """What a job writes, from the beginning, as it comes, until the job has ended."""
        stream: Any = self._client.tail_job_logs(job.submission_id)
        with _plain_errors(self.address):
            yield from pieces(stream)


def open_cluster(address: str | None = None, *, accept_open_cluster: bool = False) -> Cluster:
    """Connect to a cluster; raises as `open_access` does."""
    return Cluster(open_access(address, accept_open_cluster=accept_open_cluster))


def _patient() -> Retrying:
    """On a head that has just begun, the Jobs server answers before it can start anything."""
    return Retrying(
        retry=retry_if_exception_message(match=_NO_AGENT_YET),
        wait=wait_fixed(_RETRY_S),
        stop=stop_after_delay(_AGENT_COMES_S),
        reraise=True,
    )


@contextmanager
def _plain_errors(address: str) -> Iterator[None]:
    """What Ray's client raises, as ours."""
    try:
        yield
    except LatentuneError:
        raise
    except AuthenticationError:
        raise ClusterAccessError(f"{address} does not take the token any more") from None
    except (requests.RequestException, aiohttp.ClientError, OSError) as error:
        raise ClusterError(f"{address} does not answer: {_first_line(error)}") from None
    except RuntimeError as error:
        raise ClusterError(f"{address} cannot do that: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
