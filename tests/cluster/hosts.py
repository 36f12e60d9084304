"""Hosts on one machine: each with its own network, processes, home and /tmp/ray.

    world (namespaces of its own) ── bridge 10.77.0.1
      ├── head    10.77.0.10   sshd on port 22
      ├── ...
      └── client  10.77.0.20

All live below one process: when that ends, for whatever reason, the kernel ends every process in
there and the networks with them. Ray inside sees none outside: `ray stop`, which ends each Ray
process that it can see, reaches no other.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

BRIDGE = "10.77.0.1"
_NEEDS = ("setpriv", "unshare", "nsenter", "ip", "mount", "rsync", "ssh", "ssh-keygen")
_SSHD = "/usr/sbin/sshd"
# The first process of a namespace: it takes in and buries what others leave behind.
_INIT = "while :; do sleep 0.5 & wait $!; done"
# A private home over the real one (Python itself may live there), and nothing of it that is secret.
_HOST_INIT = """
set -e
hostname {name}
ip link set lo up
mkdir -p {own}/up {own}/work {own}/ray /tmp/ray
mount -t overlay overlay -o lowerdir={home},upperdir={own}/up,workdir={own}/work {home}
cd {home} && rm -rf .ray .mlflow .ssh .bashrc .latentune latentune
mount --bind {own}/ray /tmp/ray
mount -t tmpfs -o size=1g tmpfs /dev/shm
mount -t tmpfs tmpfs /run && mkdir -p /run/sshd
touch {own}/ready
"""
_NAMESPACES = ("--net", "--mount", "--pid", "--uts")


def why_not() -> str | None:
    """What is missing to make hosts here; None where nothing is."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in _NEEDS if shutil.which(name) is None]
    missing += [] if os.path.exists(_SSHD) else ["sshd"]
    if missing:
        return f"needs {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", *_NAMESPACES, "--fork", "true"],  # noqa: S607
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"no namespaces: {tried.stderr.strip()}" if tried.returncode else None


def wait_for(condition: Callable[[], object], what: str, timeout_s: float) -> None:
    """Wait on a condition, with a deadline."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{timeout_s:.0f} s without {what}"
        time.sleep(0.3)


@dataclass
class Host:
    """One of them."""

    name: str
    ip: str
    own: Path
    pid: int  # of its first process, as it is called out here

    def command(self, *arguments: str) -> list[str]:
        """What runs `arguments` on this host."""
        target = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--pid", "--uts"]
        return [*target, "--wd=/", "--", *arguments]

    def run(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 120,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end."""
        done = subprocess.run(
            self.command(*arguments), env={**PLAIN, **(env or {})}, capture_output=True, text=True,
            timeout=timeout_s, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done

    def start(
        self, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command there; it ends with the host."""
        with (self.own / "started.log").open("ab") as log:
            return subprocess.Popen(
                self.command(*arguments), env={**PLAIN, **(env or {})}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def listen(self, key: Path) -> None:
        """Let those in who hold the key's private half."""
        options = {
            "HostKey": self.own / "host_key", "AuthorizedKeysFile": f"{key}.pub",
            "StrictModes": "no", "PermitRootLogin": "prohibit-password",
            "PasswordAuthentication": "no", "UsePAM": "no", "MaxStartups": "100",
        }  # fmt: skip
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        make_key(self.own / "host_key")
        self.start(_SSHD, "-D", "-e", "-f", "/dev/null", *words)

    def processes(self) -> list[str]:
        """The command lines of what runs there, but for what keeps the host."""
        found = self.run("ps", "-eo", "pid=,args=").stdout.splitlines()
        lines = [line.split(None, 1) for line in found]
        keepers = ("ps -eo", "sleep 0.5", "/usr/sbin/sshd", "sshd:", "[")
        found = [args for pid, args in lines if pid != "1" and not args.startswith(keepers)]
        return [args for args in found if f"{self.own}/ready" not in args]  # 1, while it forks

    def lose(self) -> None:
        """Pull its plug: every process there dies at once."""
        os.kill(self.pid, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{self.pid}").exists(), f"the end of {self.name}", 20)


# What a shell there starts with: nothing of the environment of these tests.
PLAIN = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": os.path.expanduser("~"),
    "USER": "root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}


@dataclass
class World:
    """The bridge, and the hosts on it."""

    pid: int
    folder: Path
    hosts: dict[str, Host] = field(default_factory=dict)

    def add(self, name: str, ip: str) -> Host:
        """A new host that does not listen yet."""
        own = self.folder / name
        own.mkdir()
        script = _HOST_INIT.format(name=name, own=own, home=PLAIN["HOME"]) + _INIT
        pid = _first_process(
            [*self._enter("--mount", "--pid"), "unshare", *_NAMESPACES, "--fork", "--kill-child",
             "--mount-proc", "bash", "-c", script],
            self.folder / "hosts.log",
        )  # fmt: skip
        wait_for((own / "ready").exists, f"host {name}: see {self.folder / 'hosts.log'}", 20)
        self._plug_in(name, ip, pid)
        self.hosts[name] = Host(name, ip, own, pid)
        return self.hosts[name]

    def _plug_in(self, name: str, ip: str, pid: int) -> None:
        for words in (
            f"link add {name} type veth peer name eth0 netns {pid}",
            f"link set {name} master br0 up",
        ):
            _run("nsenter", "--target", str(self.pid), "--net", "ip", *words.split())
        for words in (
            f"addr add {ip}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {BRIDGE}",  # without one, Ray takes 127.0.0.1 for its address
        ):
            _run("nsenter", "--target", str(pid), "--net", "ip", *words.split())

    def _enter(self, *also: str) -> list[str]:
        return ["nsenter", "--target", str(self.pid), "--net", *also, "--"]


@contextmanager
def a_world(folder: Path) -> Iterator[World]:
    """Namespaces with a bridge; all in there ends with the block."""
    log = folder / "hosts.log"
    outer = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    pid = _first_process([*outer, "bash", "-c", _INIT], log)
    try:
        for words in ("link set lo up", "link add br0 type bridge",
                      f"addr add {BRIDGE}/24 dev br0", "link set br0 up"):  # fmt: skip
            _run("nsenter", "--target", str(pid), "--net", "ip", *words.split())
        yield World(pid, folder)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the world", 20)


def make_key(path: Path) -> Path:
    """An SSH key pair without a passphrase, unless it is there."""
    if not path.exists():
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))
    return path


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def _first_process(command: list[str], log: Path) -> int:
    """Start namespaces; the pid out here of the process that is 1 in there."""
    mark = f"host-{uuid.uuid4().hex}"
    with log.open("ab") as output:
        subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command, mark],  # noqa: S607 - it ends with us
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    found: list[int] = []

    def look() -> list[int]:
        found[:] = [pid for pid in _pids_with(mark) if _is_first(pid)]
        return found

    wait_for(look, f"a first process: see {log}", 20)
    return found[0]


def _pids_with(mark: str) -> list[int]:
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if mark.encode() in words and words[0].endswith(b"bash"):
                pids.append(int(path.parent.name))
    return pids


def _is_first(pid: int) -> bool:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                numbers = line.split()[1:]
                return len(numbers) > 1 and numbers[-1] == "1"
    return False
