"""Optuna's storage, with whole transitions as transactions and the database's own safety on.

    with storage.transaction():      BEGIN IMMEDIATE, and the fence: is the search still ours?
        set_trial_user_attr(...)     Optuna commits each write by itself, which in here writes
        set_trial_state_values(...)  and ends nothing
                                     COMMIT: all of it, or, whatever happens, none of it

A SQLite file is in WAL mode, so that readers neither wait nor make the writer wait, with a sync
at each commit; a commit that a crash cut short is rolled back when the file is opened again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, Protocol

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialUserAttributeModel
from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.pool import NullPool

from orchestrator.errors import LedgerError
from orchestrator.study.place import shown_url
from trainable.errors import LatentuneError

_BUSY_S = 30.0
_UPSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class Fence(Protocol):
    """Asked before anything of a search is written; raises where another driver took over."""

    def __call__(self, connection: Connection | None = None) -> None:
        """Ask in a transaction of the ledger's database; without one, in a transaction of its own.

        Raises:
            SearchLockedError: if the search is another driver's by now.
        """
        ...


def no_fence(connection: Connection | None = None) -> None:
    """A file lock guards the search."""


class LedgerStorage(RDBStorage):
    """The tables of a ledger, for its one writer or for a reader.

    Args:
        url: SQLAlchemy's.
        fence: asked at the beginning of every transaction.
        reading: whether nothing is written; no connection then outlives what is read.

    Raises:
        LedgerError: if it cannot be opened.
    """

    def __init__(self, url: str, fence: Fence = no_fence, *, reading: bool = False) -> None:
        self._fence = fence
        self._apart: scoped_session[Session] | None = None  # what stands aside in a transaction
        self._shown = shown_url(url)
        with self.said():
            # Optuna fills a template in: braces, as in a password, are to stay.
            super().__init__(
                url.replace("{", "{{").replace("}", "}}"),
                engine_kwargs=_engine_options(url, reading),
            )
            if self.engine.dialect.name == "sqlite" and not reading:
                make_safe(self.engine)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside is committed at its end, or none of it.

        Raises:
            LedgerError: where the database refuses; nothing was written then.
            SearchLockedError: where another driver took the search over.
        """
        if self._apart is not None:  # part of a transition that goes on
            yield
            return
        with self.said(), self.engine.begin() as connection:
            self._fence(connection)
            self._apart, self.scoped_session = self.scoped_session, _joining(connection)
            try:
                yield
            finally:
                self.scoped_session.remove()
                self.scoped_session, self._apart = self._apart, None

    def set_trial_user_attrs(self, trial_id: int, attrs: Mapping[str, Any]) -> None:
        """Several attributes of a running trial in one statement."""
        model = TrialUserAttributeModel
        rows = [
            {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
            for key, value in attrs.items()
        ]
        upsert = _upsert(self.engine.dialect.name)
        with self.scoped_session() as session:
            if upsert is None:
                for key, value in attrs.items():
                    self._set_trial_attr_without_commit(session, model, trial_id, key, value)
            else:
                session.execute(upsert, rows)
            session.commit()

    def said(self) -> AbstractContextManager[None]:
        """The database's errors in our words."""
        return said(self._shown)


@contextmanager
def said(shown: str) -> Iterator[None]:
    """A database's errors in our words.

    Args:
        shown: its URL, without the password.

    Raises:
        LedgerError: in place of what SQLAlchemy and Optuna raise.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise LedgerError(
            f"the ledger in {shown} cannot be used: {first_line(cause)}: make sure that "
            "it can be reached and written, then run the search again, it goes on"
        ) from None
    except ImportError as error:
        raise LedgerError(
            f"the ledger in {shown} needs a driver that is not installed: "
            f"{first_line(error.__cause__ or error)}: pip install 'latentune[postgres]'"
        ) from None
    except RuntimeError as error:
        if isinstance(error, LatentuneError) or "schema" not in str(error):
            raise
        raise LedgerError(
            f"the ledger in {shown} was written by another Optuna: {first_line(error)}: "
            "install that version, or copy the database and run `optuna storage upgrade`"
        ) from None


def _joining(connection: Connection) -> scoped_session[Session]:
    """Sessions whose commits are left to the connection's transaction."""
    return scoped_session(
        lambda: Session(bind=connection, join_transaction_mode="rollback_only")  # type: ignore[arg-type]
    )


def first_line(error: BaseException | None) -> str:
    """What an error says, without the statement and the background that SQLAlchemy adds."""
    return (str(error).strip() or repr(error)).splitlines()[0]


def make_safe(engine: Engine) -> None:
    """WAL, a sync at each commit, and transactions that hold reads as well.

    They take the right to write at once. One that began by reading, as the fence does, could not
    write any more where the lease was renewed, or another search of the file wrote, meanwhile.
    """

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # SQLAlchemy begins, and the module does not
        for setting in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {setting}").close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # what was opened before has none of it


@cache
def _upsert(dialect: str) -> Any | None:
    """The statement for a trial's attributes, its rows apart, so that it is compiled once."""
    table: Any = TrialUserAttributeModel.__table__
    if dialect not in _UPSERTS:
        return None
    new = _UPSERTS[dialect](table)
    return new.on_conflict_do_update(
        index_elements=[table.c.trial_id, table.c.key], set_={"value_json": new.excluded.value_json}
    )


def _engine_options(url: str, reading: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"poolclass": NullPool} if reading else {"pool_pre_ping": True}
    return options | ({"connect_args": {"timeout": _BUSY_S}} if url.startswith("sqlite") else {})
