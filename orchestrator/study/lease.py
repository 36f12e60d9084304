"""One driver per search in a database: a row that says who, until when, and which token.

    acquire   no row, or one that is over ──► token + 1, until = the database's now + LEASE_S
    renew     a thread moves `until`, as long as the token is its own
    fence     every write of the ledger first locks the row FOR SHARE and looks at the token;
              every event of the log is preceded by the same look

A driver that hung or was cut off, and whose lease another took over, therefore writes nothing
any more: its next transaction, or event, finds a higher token and ends it. All times are the
database's, so that clocks of machines may differ and jump. A lease whose process is dead on this
same machine is over at once.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    create_engine,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.elements import ColumnElement

from orchestrator.errors import LedgerError, SearchLockedError
from orchestrator.study.place import shown_url
from orchestrator.study.storage import said

logger = logging.getLogger(__name__)

LEASE_S = 30.0
_RENEWALS = 5  # within a lease

_TABLE = Table(
    "latentune_leases",
    MetaData(),
    Column("search", String(512), primary_key=True),
    Column("token", BigInteger, nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("machine", String(255), nullable=False),
    Column("until", Float(53), nullable=False),
)
# Seconds since 1970 by the database's clock; not by its transaction, which may have waited.
_NOW = {
    "postgresql": "extract(epoch from clock_timestamp())",
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "mysql": "unix_timestamp(sysdate(6))",
    "mariadb": "unix_timestamp(sysdate(6))",
}


class Lease:
    """The right to write one search's ledger, for as long as it is renewed.

    Args:
        url: of the ledger's database.
        search: its name.
        lease_s: how long it lasts beyond its last renewal.

    Raises:
        SearchLockedError: if another driver holds it, with its host and process id.
        LedgerError: if the database cannot be used.
    """

    def __init__(self, url: str, search: str, lease_s: float = LEASE_S) -> None:
        self._shown = shown_url(url)
        with said(self._shown):
            self._engine = create_engine(url, pool_pre_ping=True)
        self._search = search
        self._lease_s = lease_s
        self._over = threading.Event()
        self._renewed = time.monotonic()
        self.token = self._acquire()
        self._renewing = threading.Thread(target=self._renew_all, name="lease", daemon=True)
        self._renewing.start()

    def fence(self, connection: Connection | None = None) -> None:
        """Refuse a write of a driver whose search another has taken over.

        Args:
            connection: of the transaction that is to write; None for what is written elsewhere.

        Raises:
            SearchLockedError: with who has it now.
            LedgerError: where nobody can tell, and the lease may be over.
        """
        if connection is None:
            self._ask_apart()
        else:
            self._check(connection)

    def _ask_apart(self) -> None:
        """The fence in a transaction of its own; a database that is away may be, for a lease."""
        try:
            with self._engine.begin() as connection:
                self._check(connection)
        except SQLAlchemyError:
            if time.monotonic() - self._renewed < self._lease_s:
                return  # nobody else can have it yet
            with said(self._shown):
                raise

    def _check(self, connection: Connection) -> None:
        row = _row(connection, self._search, share=True)
        if row is None or row.token != self.token:
            taken = "" if row is None else f" by process {row.pid} on {row.host}"
            raise SearchLockedError(
                f"search {self._search!r} was taken over{taken} while this driver did not answer: "
                "nothing more is written here; that driver goes on with it"
            )

    def release(self) -> None:
        """Give the search back; the row stays, so that tokens only rise."""
        self._over.set()
        self._renewing.join()
        mine = (_TABLE.c.search == self._search) & (_TABLE.c.token == self.token)
        try:
            with self._engine.begin() as connection:
                connection.execute(update(_TABLE).where(mine).values(until=0.0))
        except SQLAlchemyError as error:
            logger.warning(
                "the lease could not be given back: it ends with this process, or by itself within "
                "%.0f s: %s", self._lease_s, error,
            )  # fmt: skip
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _acquire(self) -> int:
        try:
            with said(self._shown):
                return self._taken()
        except BaseException:
            self._engine.dispose()
            raise

    def _taken(self) -> int:
        try:
            _TABLE.create(self._engine, checkfirst=True)
            with self._engine.begin() as connection:
                return self._take(connection)
        except IntegrityError:  # another made the row, or the table, in the same instant
            raise SearchLockedError(
                f"search {self._search!r} is just being started by another driver: wait for it"
            ) from None

    def _take(self, connection: Connection) -> int:
        row, now = _row(connection, self._search), _now(connection)
        if row is not None and _holds(row, connection):
            raise SearchLockedError(
                f"search {self._search!r} is being run by process {row.pid} on {row.host}: wait "
                f"for it, or end it with `latentune stop {self._search}`; a driver that is lost "
                f"gives it free within {self._lease_s:.0f} s"
            )
        mine = {
            "token": 1 if row is None else row.token + 1,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": machine(),
            "until": now + self._lease_s,
        }
        if row is None:
            connection.execute(insert(_TABLE).values(search=self._search, **mine))
        else:
            same = (_TABLE.c.search == self._search) & (_TABLE.c.token == row.token)
            if connection.execute(update(_TABLE).where(same).values(**mine)).rowcount != 1:
                raise SearchLockedError(f"search {self._search!r} was taken by another driver")
        return int(mine["token"])

    def _renew_all(self) -> None:
        while not self._over.wait(self._lease_s / _RENEWALS):
            try:
                if not self.renew():
                    return  # the fence says so where it matters
            except SQLAlchemyError as error:
                logger.warning("the lease was not renewed, trying again: %s", error)

    def renew(self) -> bool:
        """Move the end of the lease; False where it is another's by now."""
        mine = (_TABLE.c.search == self._search) & (_TABLE.c.token == self.token)
        until, asked = _clock(self._engine) + self._lease_s, time.monotonic()
        with self._engine.begin() as connection:
            own = connection.execute(update(_TABLE).where(mine).values(until=until)).rowcount == 1
        self._renewed = asked if own else self._renewed
        return own


def is_leased(url: str, search: str) -> bool:
    """Whether a driver holds a search's lease."""
    with _reading(url) as connection:
        row = _row(connection, search)
        return row is not None and _holds(row, connection)


def end_lease(url: str, search: str) -> None:
    """Take the lease of a search that is removed from whoever had it.

    The row stays: with tokens that began anew, a driver that hung would have that of the next.
    """
    next_one = {"token": _TABLE.c.token + 1, "until": 0.0}
    with _reading(url) as connection:
        connection.execute(update(_TABLE).where(_TABLE.c.search == search).values(next_one))
        connection.commit()


def machine() -> str:
    """What tells one machine's process ids from another's: its boot, and the namespace of ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux: a lease is then over when its time is
        return f"unknown/{os.urandom(8).hex()}"


@contextmanager
def _reading(url: str) -> Iterator[Connection]:
    with said(shown_url(url)):
        engine = create_engine(url, poolclass=NullPool)
        try:
            _TABLE.create(engine, checkfirst=True)
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()


def _row(connection: Connection, search: str, share: bool = False) -> Row[Any] | None:
    """The search's row, locked until the transaction ends."""
    query = select(_TABLE).where(_TABLE.c.search == search).with_for_update(read=share)
    return connection.execute(query).one_or_none()


def _holds(row: Row[Any], connection: Connection) -> bool:
    """Whether a lease is running, and its process not known to be dead."""
    if row.until <= _now(connection):
        return False
    return row.machine != machine() or _is_alive(row.pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _now(connection: Connection) -> float:
    return float(connection.execute(select(_clock(connection.engine))).scalar_one())


def _clock(engine: Engine) -> ColumnElement[float]:
    name = engine.dialect.name
    if name not in _NOW:
        raise LedgerError(
            f"LATENTUNE_STORAGE: no lease is known for {name}: use one of {', '.join(_NOW)}"
        )
    return literal_column(_NOW[name], Float(53))
