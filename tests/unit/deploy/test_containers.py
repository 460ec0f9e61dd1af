"""The container files, as far as they can be held to account without an engine."""

import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from moma_server.config.server import read_yaml
from tests.support.machine.needs import needs_program

_PROJECT = Path(__file__).resolve().parents[3]
_DOCKER = _PROJECT / "deploy" / "docker"
_LOCKS = ("base", "cuda", "build")
_COMPOSE = ("compose.yaml", "compose.demo.yaml", "compose.gpu.yaml")
_VARIABLE = re.compile(r"\$\{[A-Z_]+:-([^}]*)\}")
_PINNED = re.compile(r"^([a-z0-9-]+)==([^\s;]+)", re.MULTILINE)


def _compose(name: str) -> dict[str, Any]:
    values = read_yaml(_DOCKER / name)
    assert isinstance(values, dict)
    return values


def _services(name: str) -> dict[str, dict[str, Any]]:
    services = _compose(name)["services"]
    assert isinstance(services, dict)
    return services


def _interpolated(name: str) -> str:
    """Returns a compose file with its variables' defaults, and merged keys as keys."""
    values = yaml.safe_dump(_compose(name))
    return _VARIABLE.sub(lambda found: found[1], values)


def test_the_dockerfile_passes_its_linter() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"

    found = subprocess.run(
        [hadolint, _DOCKER / "Dockerfile"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("name", _COMPOSE)
def test_a_compose_file_is_what_the_compose_specification_allows(name: str) -> None:
    spec = PyCompose.from_yaml(_interpolated(name)).to_spec()

    assert spec.services is not None
    assert spec.services.keys() == _services(name).keys()


def test_the_compose_specification_refuses_a_key_that_it_has_not() -> None:
    with pytest.raises(Exception, match="read_onyl"):
        PyCompose.from_yaml("services: {one: {image: x, read_onyl: true}}").to_spec()


@pytest.mark.parametrize("name", ["compose.yaml", "compose.demo.yaml"])
def test_no_container_has_rights_or_a_disk_that_it_does_not_need(name: str) -> None:
    for service in _services(name).values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["deploy"]["resources"]["limits"].keys() >= {"memory", "pids"}
        assert "privileged" not in service


def test_configs_and_keys_are_mounted_read_only() -> None:
    compose = _compose("compose.yaml")

    for name, service in compose["services"].items():
        config = "config.yaml" if name == "site" else "server.yaml"
        (mount,) = [one for one in service["volumes"] if config in one]
        assert mount.endswith(f":/var/lib/moma/{config}:ro")
        assert {one["source"] for one in service["secrets"]} <= set(compose["secrets"])
    assert _services("compose.yaml")["site"]["volumes"][-1].endswith(":/patches:ro")


def test_each_key_that_init_makes_is_a_secret() -> None:
    files = {one["file"] for one in _compose("compose.yaml")["secrets"].values()}

    assert {file.rpartition("/")[2] for file in files} == {
        *("coordinator.key", "ca.key", "teacher.key", "signing.key"),
        *("site.key", "node.key"),
    }


def test_what_the_demo_mounts_exists_and_its_pages_are_for_this_machine() -> None:
    for service in _services("compose.demo.yaml").values():
        for mount in service["volumes"]:
            source = mount.partition(":")[0]
            assert not source.startswith(".") or (_DOCKER / source).exists(), source
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_prometheus_and_alertmanager_take_the_demos_configs(tmp_path: Path) -> None:
    promtool, amtool = needs_program("promtool", "amtool")
    shutil.copytree(_DOCKER / "demo", tmp_path, dirs_exist_ok=True)
    shutil.copytree(_PROJECT / "deploy/prometheus/rules", tmp_path / "rules")

    for words in (
        (promtool, "check", "config", tmp_path / "prometheus.yml"),
        (amtool, "check-config", tmp_path / "alertmanager.yml"),
    ):
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", _LOCKS)
def test_every_requirement_of_a_lock_has_its_version_and_hashes(name: str) -> None:
    text = (_DOCKER / "requirements" / f"{name}.txt").read_text("utf-8")
    parts = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]

    assert parts
    assert [one for one in parts if "--hash=sha256:" not in one] == []
    assert [one for one in parts if not _PINNED.match(one)] == []


def test_the_cpu_build_of_torch_is_locked_by_what_an_index_has(tmp_path: Path) -> None:
    make_lock = runpy.run_path(str(_DOCKER / "make_lock.py"))
    locked = (_DOCKER / "requirements" / "cuda.txt").read_text("utf-8")
    cuda = re.split(r"^(?=\S)", locked, flags=re.MULTILINE)
    torch = dict(_PINNED.findall(locked))
    digests = {
        name: _wheel(tmp_path / name, name, f"{torch[name]}+cpu")
        for name in ("torch", "torchvision")
    }

    lock = make_lock["cpu_lock"](cuda, tmp_path.as_uri())

    assert "".join(lock).replace(" \\\n    ", " ").splitlines() == [
        f"{name}=={torch[name]}+cpu --hash=sha256:{digests[name]}"
        for name in ("torch", "torchvision")
    ]


def _wheel(folder: Path, name: str, version: str) -> str:
    """Puts an empty wheel into a package index, and returns its digest."""
    folder.mkdir()
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(
            f"{about}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        )
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    digest = sha256(path.read_bytes()).hexdigest()
    link = f'<a href="{path.name}#sha256={digest}">{path.name}</a>'
    (folder / "index.html").write_text(link)
    return digest


def test_the_images_have_the_versions_that_the_tests_ran_with() -> None:
    ours = dict(_PINNED.findall((_PROJECT / "constraints.txt").read_text("utf-8")))

    for name in _LOCKS:
        text = (_DOCKER / "requirements" / f"{name}.txt").read_text("utf-8")
        other = {
            package: (version, ours[package])
            for package, version in _PINNED.findall(text)
            if ours.get(package, version) != version
        }
        assert other == {}, "refresh it: make lock"
