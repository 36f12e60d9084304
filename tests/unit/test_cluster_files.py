"""cluster.yaml and deploy/: valid by their own schemas, closed to strangers, and all the same.

tests/schemas/compose-spec.json is schema/compose-spec.json of github.com/compose-spec/compose-spec
at 170098ba07d9f53c383a41bfd4c5166b0a4529a6 (Apache-2.0).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
AWS, LOCAL = ROOT / "cluster.yaml", ROOT / "deploy" / "local.yaml"
COMPOSE, COMPOSE_GPU = ROOT / "deploy" / "compose.yaml", ROOT / "deploy" / "compose.gpu.yaml"
LAUNCHED = pytest.mark.parametrize("path", [AWS, LOCAL], ids=["aws", "local"])
COMPOSED = pytest.mark.parametrize("path", [COMPOSE, COMPOSE_GPU], ids=["compose", "gpu"])
EVERY = [AWS, *sorted(path for path in (ROOT / "deploy").iterdir() if path.is_file())]


def read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = YAML(typ="safe", pure=True).load(path.read_text())
    return data


# --- by the schemas of those who read them


def check_launched(config: dict[str, Any]) -> None:
    """What `ray up` does before it asks anyone for a machine."""
    validate_config(prepare_config(deepcopy(config)))


def check_composed(config: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "tests" / "schemas" / "compose-spec.json").read_text())
    jsonschema.Draft7Validator(schema).validate(config)


@LAUNCHED
def test_the_launcher_takes_it(path: Path) -> None:
    check_launched(read(path))


def _change(where: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        *parents, last = where.split("/")
        for key in parents:
            config = config[key]
        config[last] = value

    return change


@pytest.mark.parametrize(
    "wrong",
    [
        _change("max_worker", 3),
        _change("max_workers", "three"),
        _change("head_start_ray_commands", "ray stop"),
        _change("provider/region", 7),
        _change("available_node_types/gpu/resources", {"GPU": "one"}),
        _change("available_node_types/gpu/min_worker", 1),
        _change("available_node_types/gpu/min_workers", 9),
        _change("head_node_type", "haed"),
    ],
)
def test_the_launcher_refuses_a_wrong_field(wrong: Callable[[dict[str, Any]], None]) -> None:
    config = read(AWS)
    wrong(config)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        check_launched(config)


@COMPOSED
def test_compose_takes_it(path: Path) -> None:
    check_composed(read(path))


@pytest.mark.parametrize(
    "wrong",
    [
        _change("service", {}),
        _change("services/head/comand", "ray start"),
        _change("services/head/ports", "127.0.0.1:8265:8265"),
        _change("services/mlflow/depends_on", {"postgres": {"condition": "healthy"}}),
        _change("secrets/ray_token", {"flie": "secrets/ray_token"}),
        _change("services/worker/shm_size", [2]),
    ],
)
def test_compose_refuses_a_wrong_field(wrong: Callable[[dict[str, Any]], None]) -> None:
    config = read(COMPOSE)
    wrong(config)
    with pytest.raises(jsonschema.ValidationError):
        check_composed(config)


def test_compose_names_only_what_it_has() -> None:
    """Compose finds these out when it starts, the schema does not."""
    config = read(COMPOSE)
    services = config["services"].values()
    used = {name if isinstance(name, str) else name["source"]
            for service in services for name in service["secrets"]}  # fmt: skip
    assert used == set(config["secrets"])
    mounted = {volume.split(":")[0] for service in services for volume in service["volumes"]}
    assert mounted == set(config["volumes"])
    assert {name for s in services for name in s.get("depends_on", ())} <= set(config["services"])


def test_the_launcher_installs_what_is_there() -> None:
    for path in (AWS, LOCAL):
        for word in re.findall(r"~/latentune/dist/(\S+)", path.read_text()):
            assert (ROOT / "deploy" / word).exists()
    assert "deploy/install.sh deploy/environment.sh" in (ROOT / "Makefile").read_text()
    assert "environment.sh" in (ROOT / "deploy" / "install.sh").read_text()


def test_a_head_with_an_earlier_package_gets_the_new_one(tmp_path: Path) -> None:
    """`ray up` leaves the wheel of the last version beside the new one."""
    dist, tools = tmp_path / "latentune" / "dist", tmp_path / "bin"
    for folder in (dist, tools):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "install.sh", dist)
    (dist / "constraints.txt").touch()
    for age, version in enumerate(("0.10.0", "0.9.0", "0.2.0")):
        (dist / f"latentune-{version}-py3-none-any.whl").write_text(version)
        os.utime(dist / f"latentune-{version}-py3-none-any.whl", (10**9 - age, 10**9 - age))
    pip = f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n'
    make = f"#!/bin/sh\nmkdir -p $3/bin; cp {tools}/pip $3/bin/pip\n"
    for name, text in (("pip", pip), ("python3", make)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o700)
    environment = {"HOME": str(tmp_path), "PATH": f"{tools}:/usr/bin:/bin"}
    for _ in range(2):
        subprocess.run(["/bin/bash", dist / "install.sh"], env=environment, check=True)
    told = (tmp_path / "told").read_text()
    assert "latentune-0.10.0-py3-none-any.whl" in told
    assert "0.9.0" not in told and "0.2.0" not in told
    assert told.count("--force-reinstall") == 1, "installed once"


# --- all three start the same


def commands(config: dict[str, Any]) -> list[str]:
    """Every command of a launcher's or Compose's file."""
    if "services" in config:
        return [s["command"] for s in config["services"].values() if "command" in s]
    found = [config[key] for key in config if key.endswith("_commands")]
    return [command for listed in found for command in listed]


def words_after(start: str, config: dict[str, Any]) -> set[str]:
    """The options of the one command that starts so."""
    (found,) = (c.split(start, 1)[1] for c in commands(config) if start in c)
    return set(shlex.split(found))


# What may differ: a container has an address of its own, and somebody who restarts it.
OWN_WAY = {
    "ray start --head": {
        "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0",
        "--autoscaling-config=~/ray_bootstrap_config.yaml", "--block",
    },
    "ray start --address=": {"$RAY_HEAD_IP:6379", "head:6379", "--block"},
    "python -m orchestrator.service mlflow": {
        "--detach", "--peer", "127.0.0.1:6379", "--host", "0.0.0.0",  # noqa: S104
        "--allowed-hosts", "mlflow:5000,localhost:*,127.0.0.1:*",
    },
}  # fmt: skip


@pytest.mark.parametrize("start", OWN_WAY)
def test_all_start_the_same(start: str) -> None:
    aws, local, compose = (words_after(start, read(path)) for path in (AWS, LOCAL, COMPOSE))
    assert aws ^ local <= {"--block"}  # machines that nobody ends after `ray down`
    assert aws ^ compose <= OWN_WAY[start]


def test_the_launchers_files_agree() -> None:
    aws, local = read(AWS), read(LOCAL)
    for key in ("cluster_name", "file_mounts", "idle_timeout_minutes"):
        assert aws[key] == local[key], key
    assert aws["worker_start_ray_commands"][:-1] == local["worker_start_ray_commands"][:-1]
    assert len(aws["head_start_ray_commands"]) == len(local["head_start_ray_commands"])


def test_all_tell_their_processes_the_same() -> None:
    script = (ROOT / "deploy" / "environment.sh").read_text()
    told = {line[1]: line[2] for line in re.finditer(r'^export (\w+)="?([^"\s]*)', script, re.M)}
    composed = read(COMPOSE)["services"]["head"]["environment"]
    for name in ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED", "MLFLOW_DISABLE_TELEMETRY"):
        assert told[name] == composed[name]
    assert {"LATENTUNE_HOME", "MLFLOW_TRACKING_URI", "HF_HOME"} <= told.keys() & composed.keys()


def test_local_machines_get_the_autoscaler_that_starts_them() -> None:
    (start,) = (c for c in commands(read(LOCAL)) if "ray start --head" in c)
    assert "RAY_enable_autoscaler_v2=0 " in start.partition("ray start")[0]
    assert "autoscaler_v2" not in AWS.read_text()


def test_the_cloud_shrinks_to_its_head() -> None:
    config = read(AWS)
    kinds = config["available_node_types"]
    assert kinds["gpu"]["min_workers"] == 0
    assert kinds["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in kinds["head"]["node_config"]
    assert config["max_workers"] == kinds["gpu"]["max_workers"]
    assert config["idle_timeout_minutes"] <= 15
    assert config["provider"]["cache_stopped_nodes"] is True


# --- nobody else gets in


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.name)
def test_no_secret_and_nothing_that_moves(path: Path) -> None:
    text = re.sub(r"(?m)(^|\s)#.*$", "", path.read_text())  # comments tell, and give nothing
    assert not re.search(r":latest\b|/latest\b|@latest\b", text)
    assert "0.0.0.0/0" not in text and "::/0" not in text
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|hf_[A-Za-z0-9]{20}", text)
    assert not re.search(r"\b[0-9a-f]{32,}\b", text), "looks like a token"
    named = re.compile(r"(?i)(password|secret|token)[a-z_]*[ ]*[:=][ ]*(\S+)")
    allowed = r"/run/secrets\b|\{file:|\[.*|~/\S+|\$\S+|token\b.*|secrets/\S+|required\}?"
    assert [m[0] for m in named.finditer(text) if not re.match(allowed, m[2])] == []


def test_every_image_has_a_version() -> None:
    images = [s.get("image", "") for s in read(COMPOSE)["services"].values()]
    images += re.findall(r"^FROM (\S+)", (ROOT / "deploy" / "Dockerfile").read_text(), re.M)
    assert images
    assert [image for image in images if not re.search(r":\d+\.\d+[\w.-]*$", image)] == []


def test_nothing_listens_beyond_the_machine() -> None:
    for path in (AWS, LOCAL):
        assert "--dashboard-host=127.0.0.1" in words_after("ray start --head", read(path))
        assert "--host" not in words_after("python -m orchestrator.service mlflow", read(path))
    published = [p for s in read(COMPOSE)["services"].values() for p in s.get("ports", ())]
    assert published and all(p.startswith("127.0.0.1:") for p in published)


def test_the_security_group_is_the_users_own() -> None:
    """Ray's default one opens SSH to the world."""
    config = read(AWS)
    assert "security_group" not in config["provider"]
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"]
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert "IamInstanceProfile" not in kind["node_config"]


def test_workers_have_no_secret_but_the_token() -> None:
    assert read(COMPOSE)["services"]["worker"]["secrets"] == ["ray_token"]
    for path in (AWS, LOCAL):
        assert set(read(path)["file_mounts"]) == {"~/latentune/dist", "~/.ray/auth_token"}


def test_everything_asks_for_the_token() -> None:
    assert "export RAY_AUTH_MODE=token" in (ROOT / "deploy" / "environment.sh").read_text()
    services = read(COMPOSE)["services"]
    for name in ("head", "worker"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"
    for path in (AWS, LOCAL):
        lists = [read(path)[f"{kind}_start_ray_commands"] for kind in ("head", "worker")]
        assert all("chmod 600 ~/.ray/auth_token" in listed for listed in lists)


def test_nobody_is_root() -> None:
    assert (
        re.findall(r"^USER (\S+)", (ROOT / "deploy" / "Dockerfile").read_text(), re.M)[-1] != "root"
    )
    assert read(LOCAL)["auth"]["ssh_user"] != "root"
    assert read(AWS)["auth"]["ssh_user"] != "root"
    for name, service in read(COMPOSE)["services"].items():
        if name == "postgres":
            continue  # starts as root to read its password, and goes on as `postgres`
        assert service["user"].startswith("${LATENTUNE_UID:-1000}")
        assert service["cap_drop"] == ["ALL"]
        assert "privileged" not in service


def test_the_image_copies_what_its_postgres_writes() -> None:
    image = read(COMPOSE)["services"]["postgres"]["image"]
    major = re.match(r"postgres:(\d+)\.", image)
    assert major
    assert f"postgresql-client-{major[1]}" in (ROOT / "deploy" / "Dockerfile").read_text()
