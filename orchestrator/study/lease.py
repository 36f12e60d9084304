"""One driver per search in a database: a row that says who, until when, and which token.

    acquire   no row, or one that is over ──► token + 1, until = the database's now + LEASE_S
    renew     a thread moves `until`, as long as the token is its own
    fence     every write of the ledger first locks the row FOR SHARE and looks at the token

A driver that hung or was cut off, and whose lease another took over, therefore writes nothing
any more: its next transaction finds a higher token and ends it. All times are the database's,
so that clocks of machines may differ and jump. A lease whose process is dead on this same
machine is over at once.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
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
    delete,
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
        self._engine = create_engine(url, poolclass=NullPool)
        self._search = search
        self._lease_s = lease_s
        self._over = threading.Event()
        self.token = self._acquire(shown_url(url))
        self._renewing = threading.Thread(target=self._renew_all, name="lease", daemon=True)
        self._renewing.start()

    def fence(self, connection: Connection) -> None:
        """Refuse a transaction of a driver whose search another has taken over."""
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
            logger.warning("the lease could not be given back, it ends by itself: %s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _acquire(self, shown: str) -> int:
        try:
            _TABLE.create(self._engine, checkfirst=True)
            with self._engine.begin() as connection:
                return self._take(connection)
        except IntegrityError:  # another made the row, or the table, in the same instant
            raise SearchLockedError(
                f"search {self._search!r} is just being started by another driver: wait for it"
            ) from None
        except SQLAlchemyError as error:
            raise LedgerError(
                f"the ledger in {shown} cannot be used: {str(error).splitlines()[0]}: make sure "
                "that it can be reached and written"
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
        until = _clock(self._engine) + self._lease_s
        with self._engine.begin() as connection:
            return connection.execute(update(_TABLE).where(mine).values(until=until)).rowcount == 1


def is_leased(url: str, search: str) -> bool:
    """Whether a driver holds a search's lease."""
    with _reading(url) as connection:
        row = _row(connection, search)
        return row is not None and _holds(row, connection)


def forget_lease(url: str, search: str) -> None:
    """Remove the row of a search that is removed."""
    with _reading(url) as connection:
        connection.execute(delete(_TABLE).where(_TABLE.c.search == search))
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
    engine = create_engine(url, poolclass=NullPool)
    try:
        _TABLE.create(engine, checkfirst=True)
        with engine.connect() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise LedgerError(
            f"the ledger in {shown_url(url)} cannot be used: {str(error).splitlines()[0]}: make "
            "sure that it can be reached"
        ) from None
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
