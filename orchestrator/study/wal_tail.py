"""What a crash left behind the last commit of a SQLite ledger, said before SQLite drops it.

    study.db-wal    header (32 bytes: ..., salts, checksum)
                    frame: header (24 bytes: page, pages after a commit or 0, salts, checksum), page
                    ...

SQLite itself goes back to the last frame that ends a commit, silently. Frames behind that one
were either never finished (torn), or are left over from an earlier turn of the file: those have
other salts and mean nothing. Format: sqlite.org/fileformat2.html, section 4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_HEADER, _FRAME = 32, 24
_LITTLE, _BIG = 0x377F0682, 0x377F0683


@dataclass(frozen=True)
class WalTail:
    """What stands in a write-ahead log.

    Args:
        commits: whole transactions in it.
        torn: bytes behind the last of them that belong to one that was never finished.
    """

    commits: int
    torn: int


def read_wal_tail(study: Path) -> WalTail:
    """Read the write-ahead log beside a SQLite file; an absent one holds nothing."""
    path = study.with_name(f"{study.name}-wal")
    data = path.read_bytes() if path.exists() else b""
    if len(data) < _HEADER:
        return WalTail(0, len(data))
    magic, _, page, _, *salts, first, second = struct.unpack(">8I", data[:_HEADER])
    if magic not in (_LITTLE, _BIG) or (first, second) != _sum(data[:24], (0, 0), magic):
        return WalTail(0, len(data))
    return _read_frames(data, magic, page, tuple(salts), (first, second))


def _read_frames(
    data: bytes, magic: int, page: int, salts: tuple[int, ...], running: tuple[int, int]
) -> WalTail:
    commits, sound, place = 0, _HEADER, _HEADER
    while place + _FRAME <= len(data):
        frame = data[place : place + _FRAME]
        _, pages, *salts_here, first, second = struct.unpack(">6I", frame)
        if tuple(salts_here) != salts:
            return WalTail(commits, place - sound)  # an earlier turn's, from here on
        body = data[place + _FRAME : place + _FRAME + page]
        if len(body) < page:
            break
        running = _sum(body, _sum(frame[:8], running, magic), magic)
        if running != (first, second):
            break
        place += _FRAME + page
        if pages:
            commits, sound = commits + 1, place
    return WalTail(commits, len(data) - sound)


def _sum(data: bytes, start: tuple[int, int], magic: int) -> tuple[int, int]:
    """SQLite's running checksum over pairs of 32-bit words."""
    order = "<" if magic == _LITTLE else ">"
    first, second = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for one, two in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second
