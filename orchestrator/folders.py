"""Where everything local lives: LATENTUNE_HOME and, in it, one folder per search.

LATENTUNE_HOME/                  default ./.latentune
  mlflow.db, mlartifacts/        unless a tracking URI says otherwise
  cache/records/                 data files, tokenised; may be deleted at any time
  uploads/DIGEST/                what came with submitted searches; they need it to go on
  searches/NAME/
    config.yaml  data.json  study.db  events.jsonl  lock  result.json  shipped.json
    storage.json                 in place of study.db and lock where the ledger is in a database
    id                           tells it from searches of its name in other folders
    reproduce.json               versions, fingerprints, seeds, order of asks
    control/                     requests that the driver polls
    reruns/UID/                  a trial trained again by `latentune rerun`
    trials/UID/STEP-SHA256.safetensors  trial states, kilobytes
    artifacts/UID/               what each ended trial hands over
    confirm/                     confirmation.json, items.parquet, members/
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import HomeError, SearchNotFoundError
from orchestrator.safety.ownership import check_ownership
from orchestrator.search_config import SLUG

HOME_VARIABLE = "LATENTUNE_HOME"
UPLOADS = "uploads"
_UPLOADED = re.compile(rf".*/{UPLOADS}/(?=[0-9a-f]{{16}}/[^/]+\Z)")


def home_folder(home: str | Path | None = None) -> Path:
    """LATENTUNE_HOME as an absolute path: argument over environment over `./.latentune`.

    Raises:
        HomeError: if something that is no folder stands there.
    """
    path = Path(home or os.environ.get(HOME_VARIABLE) or ".latentune").absolute()
    if path.exists() and not path.is_dir():
        raise HomeError(f"{HOME_VARIABLE}={str(path)!r} is no folder: set it to one")
    return path


def cache_folder(home: Path) -> Path:
    """Where data files are kept tokenised, for all searches."""
    return home / "cache" / "records"


def by_content(path: str) -> str:
    """A path that is the same in every LATENTUNE_HOME: of an uploaded file, DIGEST/NAME.

    Args:
        path: any; others than those of uploaded files stay as they are.
    """
    return _UPLOADED.sub("", path)


@dataclass(frozen=True)
class SearchFolder:
    """The folder of one search."""

    path: Path

    @classmethod
    def of(cls, home: Path, name: str) -> SearchFolder:
        """The folder of the search `name`, whether it exists or not.

        Raises:
            SearchNotFoundError: if the name is no slug, so that no search can be called that.
        """
        if not re.fullmatch(SLUG, name):
            raise SearchNotFoundError(
                f"{name!r} is no search name (expected {SLUG}): see `latentune list`"
            )
        return cls(home / "searches" / name)

    @classmethod
    def existing(cls, home: Path, name: str) -> SearchFolder:
        """The folder of a search that was begun.

        Raises:
            SearchNotFoundError: if there is none.
            ForeignFolderError: if it is not the user's own.
        """
        folder = cls.of(home, name)
        folder.check_own()
        if not folder.has_ledger:
            known = ", ".join(f.name for f in all_searches(home)) or "none"
            raise SearchNotFoundError(
                f"there is no search {name!r} under {home}; known: {known}. Start one with "
                "`latentune run SEARCH.yaml`, or set LATENTUNE_HOME"
            )
        return folder

    def check_own(self) -> None:
        """Raise ForeignFolderError if others own, or may write, what decides what it runs."""
        searches = self.path.parent
        files = (self.config, self.study, self.place, self.events)
        check_ownership(searches.parent, searches, self.path, *files)

    @property
    def name(self) -> str:
        """The search's name."""
        return self.path.name

    @property
    def config(self) -> Path:
        """The configuration that the search was started with."""
        return self.path / "config.yaml"

    @property
    def data(self) -> Path:
        """What is known of its rows: counts, overlap, the digests of its files."""
        return self.path / "data.json"

    @property
    def study(self) -> Path:
        """The ledger's default SQLite file."""
        return self.path / "study.db"

    @property
    def place(self) -> Path:
        """Names the database that holds the ledger, where it is not that file."""
        return self.path / "storage.json"

    @property
    def has_ledger(self) -> bool:
        """Whether a search was begun here."""
        return self.study.exists() or self.place.exists()

    @property
    def events(self) -> Path:
        """The event log."""
        return self.path / "events.jsonl"

    @property
    def lock(self) -> Path:
        """Held by the driver."""
        return self.path / "lock"

    @property
    def control(self) -> Path:
        """Requests to the driver."""
        return self.path / "control"

    @property
    def result(self) -> Path:
        """How the search stands after its last run."""
        return self.path / "result.json"

    @property
    def confirm(self) -> Path:
        """What a confirmation keeps."""
        return self.path / "confirm"

    @property
    def confirmation(self) -> Path:
        """What the last confirmation found."""
        return self.confirm / "confirmation.json"

    @property
    def reproduction(self) -> Path:
        """All that its numbers depend on."""
        return self.path / "reproduce.json"

    def trial(self, uid: str) -> Path:
        """Where a trial's states are saved."""
        return self.path / "trials" / uid

    def artifact(self, uid: str) -> Path:
        """Where a trial's artifact folder is written."""
        return self.path / "artifacts" / uid

    def uid(self, number: int) -> str:
        """A trial's uid: NAME-number."""
        return f"{self.name}-{number}"


def all_searches(home: Path) -> list[SearchFolder]:
    """The searches under LATENTUNE_HOME, by name."""
    found = [SearchFolder(path) for path in sorted((home / "searches").glob("*"))]
    return [folder for folder in found if folder.has_ledger]
