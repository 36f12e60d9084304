"""The cluster of deploy/local.yaml on hosts of this machine: what a person does, in a folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.cluster.hosts import PLAIN, Host, World, make_key, wait_for

ROOT = Path(__file__).parents[2]
HEAD_IP, CLIENT_IP = "10.77.0.10", "10.77.0.20"
WORKER_IPS = ("10.77.0.11", "10.77.0.12", "10.77.0.13")
HOME = Path(PLAIN["HOME"])
DASHBOARD, MLFLOW = 8265, 5000
_BIN = Path(sys.prefix) / "bin"
# A node's own: Ray of five hosts on two cores needs no prestarted workers and no large store.
_SMALL = {"RAY_object_store_memory": str(100 * 2**20)}


@dataclass
class Raised:
    """The hosts, and the client's side of the cluster on them."""

    world: World
    head: Host
    workers: list[Host]
    client: Host
    folder: Path
    key: Path

    @property
    def file(self) -> Path:
        """The launcher's file: deploy/local.yaml with its values filled in."""
        return self.folder / "cluster.yaml"

    def ray(self, *arguments: str, timeout_s: float = 180, check: bool = True) -> str:
        """`ray` as the person at the client types it."""
        done = self.client.run(
            str(_BIN / "ray"), *arguments, env=self.environment, timeout_s=timeout_s, check=check
        )
        return done.stdout + done.stderr

    def latentune(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 280,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """`latentune` at the client."""
        code = "from orchestrator.cli import main; main()"
        return self.client.run(
            str(_BIN / "python"), "-c", code, *arguments,
            env={**self.environment, **(env or {})}, timeout_s=timeout_s, check=check,
        )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """What the client's shell exports, as docs/cluster.md says."""
        return {
            "PATH": f"{_BIN}:{PLAIN['PATH']}", "RAY_AUTH_MODE": "token", "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true", "COLUMNS": "200",
        }  # fmt: skip

    def on_head(self, command: str, timeout_s: float = 120, check: bool = True) -> str:
        """A command on the head as `ray exec` gives it to a login shell there."""
        return self.head.run(
            "bash", "--login", "-i", "-c", command, timeout_s=timeout_s, check=check
        ).stdout

    def up(self) -> None:
        """Raise the cluster. Who does not tear it down loses it with the hosts."""
        self.ray("up", "-y", "--no-config-cache", str(self.file), timeout_s=290)

    def tunnel(self) -> None:
        """Forward the dashboard's and MLflow's ports, as `ray attach -p` does."""
        words = [f"{port}:127.0.0.1:{port}" for port in (DASHBOARD, MLFLOW)]
        forwards = [part for word in words for part in ("-L", word)]
        self.client.start(
            "ssh", "-N", "-i", str(self.key), "-o", "StrictHostKeyChecking=no",
            "-o", "ExitOnForwardFailure=yes", *forwards, f"root@{HEAD_IP}",
        )  # fmt: skip
        for port in (DASHBOARD, MLFLOW):
            url = f"http://127.0.0.1:{port}/health"
            wait_for(lambda url=url: self.status(url) != 0, f"a tunnel to {port}", 30)  # type: ignore[misc]

    def status(self, url: str, *options: str) -> int:
        """The HTTP status that the client gets; 0 where nobody answers."""
        done = self.client.run(
            "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *options, url, check=False
        )
        return int(done.stdout or 0)

    def alive(self) -> set[str]:
        """The addresses of the cluster's live nodes, by Ray's own list."""
        found = self.on_head("ray list nodes --format json --limit 1000", check=False)
        text = found[found.find("[") :] if "[" in found else "[]"
        nodes: list[dict[str, Any]] = json.loads(text)
        return {node["node_ip"] for node in nodes if node["state"] == "ALIVE"}


def raise_hosts(world: World, folder: Path) -> Raised:
    """Hosts for a head, three workers, of which the last is off, and a client."""
    key = make_key(folder / "key")
    head = world.add("head", HEAD_IP)
    workers = [world.add(f"worker{i}", ip) for i, ip in enumerate(WORKER_IPS, 1)]
    client = world.add("client", CLIENT_IP)
    raised = Raised(world, head, workers, client, folder, key)
    for host in (head, *workers[:2]):
        host.listen(key)
    for host in (head, *workers):
        _install(host)
    _dist(folder / "dist")
    _write_file(raised)
    raised.ray("get-auth-token", "--generate")
    client.run("chmod", "600", f"{HOME}/.ray/auth_token")
    return raised


def _write_file(raised: Raised) -> None:
    """deploy/local.yaml, with the values that it asks for and nothing else."""
    config = YAML(typ="safe", pure=True).load((ROOT / "deploy" / "local.yaml").read_text())
    config["provider"] |= {"head_ip": HEAD_IP, "worker_ips": list(WORKER_IPS)}
    config |= {"max_workers": len(WORKER_IPS), "min_workers": len(WORKER_IPS)}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(raised.key)}
    config["file_mounts"]["~/latentune/dist"] = str(raised.folder / "dist")
    with raised.file.open("w") as file:
        YAML(typ="safe", pure=True).dump(config, file)


def _dist(folder: Path) -> None:
    """What `make dist` writes, with an empty package: hosts share this machine's environment."""
    folder.mkdir()
    for name in ("install.sh", "environment.sh"):
        shutil.copy(ROOT / "deploy" / name, folder)
    shutil.copy(ROOT / "constraints.txt", folder)
    (folder / "latentune-0-py3-none-any.whl").write_bytes(b"")
    own = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **_SMALL}
    lines = [f"export {name}={value}\n" for name, value in own.items()]
    with (folder / "environment.sh").open("a") as file:
        file.writelines(lines)


def _install(host: Host) -> None:
    """The environment of these tests in the place where install.sh would make one."""
    lock = (ROOT / "constraints.txt").read_bytes()
    mark = hashlib.sha256(b"" + lock + b"[service]\n").hexdigest()
    venv = HOME / "latentune" / "venv"
    links = " ".join(str(path) for path in sorted(Path(sys.prefix).iterdir()))
    host.run(
        "bash",
        "-c",
        f"mkdir -p {venv} && ln -s {links} {venv}/ && echo '{mark}  -' > {venv}/installed",
    )


def tokens(raised: Raised) -> list[str]:
    """Every secret of this cluster."""
    token = raised.client.run("cat", f"{HOME}/.ray/auth_token").stdout.strip()
    kept = raised.head.run("bash", "-c", f"cat {HOME}/latentune/home/secrets/*").stdout.split()
    return [token, *(word for word in kept if len(word) >= 40)]
