"""Every error that the orchestration raises on purpose.

    LatentuneError                              (trainable.errors)
    ├── ConfigError (ValueError)                a search file, with all its problems
    ├── SearchExistsError (FileExistsError)     a search of this name, with another file
    ├── SearchNotFoundError (LookupError)       no search of this name
    ├── SearchLockedError (RuntimeError)        a search that another driver holds
    ├── EventLogError (ValueError)              an event log that was damaged
    ├── HomeError (OSError)                     a LATENTUNE_HOME that cannot be written
    ├── ForeignFolderError (PermissionError)    a search's folder that others own or may write
    ├── FloorError (ImportError)                a library that is too old to be safe, or missing
    ├── SecretError (PermissionError)           a secret that others can read, or we cannot
    ├── BackupError (ValueError)                a backup that cannot be made or put back
    ├── ClusterError (ConnectionError)          a Ray that cannot be reached
    │   ├── ClusterAccessError                  ... or that may not be used
    │   ├── EngineLostError                     an engine that died, with its trials in it
    │   ├── EngineFullError                     an engine without room for another trial
    │   ├── NoEngineError                       a wait for an engine that was given up
    │   └── ParcelError                         files that did not reach an engine's machine whole
    ├── UploadError (ValueError)                files that cannot be sent to a cluster
    ├── JobError (RuntimeError)                 a job without a result
    ├── LedgerError (RuntimeError)              a study that cannot be read
    ├── TrackingError (RuntimeError)            a tracking store or server that cannot be used
    │   └── TrackingUriError (ValueError)       ... because of what was asked for
    ├── ConfirmationError (ValueError)          a search that cannot be confirmed
    ├── ConfirmationHaltedError (RuntimeError)  a confirmation that was stopped, and can go on
    ├── TargetExistsError (FileExistsError)     a folder to pull into that holds something else
    └── ArtifactError                           (trainable.errors)
        └── ManifestError                       files that are not the registered ones

A message says what is wrong, what was given, what was expected and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from search_spaces.errors import Problem, listed
from trainable.errors import ArtifactError, LatentuneError


class ConfigError(LatentuneError, ValueError):
    """A search's configuration that cannot be used.

    Args:
        problems: everything that is wrong with it, at least one.
        source: the file, or whatever else the configuration came from.
    """

    def __init__(self, problems: Sequence[Problem], source: str = "search") -> None:
        super().__init__(tuple(problems), source)  # args alone survive pickling

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong."""
        problems: tuple[Problem, ...] = self.args[0]
        return problems

    @property
    def source(self) -> str:
        """Where the configuration came from."""
        return str(self.args[1])

    def __str__(self) -> str:
        return listed(self.source, self.problems)


class SearchExistsError(LatentuneError, FileExistsError):
    """A search of this name exists and was started with another configuration."""


class SearchNotFoundError(LatentuneError, LookupError):
    """There is no search, or no trial of it, of this name."""


class SearchLockedError(LatentuneError, RuntimeError):
    """Another driver is running this search."""


class EventLogError(LatentuneError, ValueError):
    """An event log with a line, before its last one, that is no event."""


class TrackingError(LatentuneError, RuntimeError):
    """A tracking store or server that cannot be reached, or refuses what is asked of it."""


class TrackingUriError(TrackingError, ValueError):
    """A tracking URI, host or port that cannot be used as it was given."""


class HomeError(LatentuneError, OSError):
    """A LATENTUNE_HOME that is no folder or cannot be written."""


class ForeignFolderError(LatentuneError, PermissionError):
    """A search's folder that another user owns, or that everybody may write."""


class FloorError(LatentuneError, ImportError):
    """A library below the oldest version that is safe and works."""


class SecretError(LatentuneError, PermissionError):
    """A file with a secret that others can read, or that we cannot read or make."""


class BackupError(LatentuneError, ValueError):
    """A backup that cannot be made or put back as it was asked for."""


class ClusterError(LatentuneError, ConnectionError):
    """A Ray cluster that cannot be reached."""


class ClusterAccessError(ClusterError):
    """A Ray cluster that refuses our token, or asks nobody for one."""


class UploadError(LatentuneError, ValueError):
    """Files, or an environment, that cannot be sent with a search."""


class JobError(LatentuneError, RuntimeError):
    """A job that has no result: it runs, was killed, or refused its search."""


class EngineLostError(ClusterError):
    """An engine that died, or that was ended because it hung."""


class EngineFullError(ClusterError):
    """An engine that has as many trials of a search as it takes."""


class NoEngineError(ClusterError):
    """A wait for an engine that was given up: somebody stops the run, or a budget is spent."""


class ParcelError(ClusterError):
    """Files of the driver's machine that did not reach an engine's machine whole."""


class LedgerError(LatentuneError, RuntimeError):
    """A search's study that cannot be read."""


class ConfirmationError(LatentuneError, ValueError):
    """A search whose winner cannot be confirmed: nothing to train, or nothing to test on."""


class ConfirmationHaltedError(LatentuneError, RuntimeError):
    """A confirmation that was stopped; run again, it goes on."""


class TargetExistsError(LatentuneError, FileExistsError):
    """A folder to pull into that already holds something else."""


class ManifestError(ArtifactError):
    """An artifact folder that is not, file by file, the one that was registered."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it came from."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
