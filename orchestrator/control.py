"""Requests to a running driver: files under control/, which it polls and alone answers.

`latentune stop` may run on any machine that sees the folder; the driver is the ledger's
only writer.
"""

from __future__ import annotations

from orchestrator.folders import SearchFolder

_SEARCH = "stop"
_TRIAL = "stop-trial-"


class Requests:
    """The requests of one search."""

    def __init__(self, folder: SearchFolder) -> None:
        self._control = folder.control

    def stop_search(self) -> None:
        """Ask that the search pause; running it again goes on."""
        self._write(_SEARCH)

    def stop_trial(self, number: int) -> None:
        """Ask that one trial end where it stands."""
        self._write(f"{_TRIAL}{number}")

    def search(self) -> bool:
        """Whether the search is to pause."""
        return (self._control / _SEARCH).exists()

    def trials(self) -> list[int]:
        """The trials that are to end; asked again until `clear`, so that no crash loses one."""
        numbers = []
        for request in self._control.glob(f"{_TRIAL}*"):
            number = request.name.removeprefix(_TRIAL)
            if number.isdecimal():
                numbers.append(int(number))
        return numbers

    def forget_search(self) -> None:
        """Forget that an earlier run was to pause: this one was started after that."""
        (self._control / _SEARCH).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget all requests: they have been answered."""
        for request in self._control.glob("stop*"):
            request.unlink()

    def _write(self, name: str) -> None:
        self._control.mkdir(parents=True, exist_ok=True)
        (self._control / name).touch()
