"""The images of server and client, of one variant, built and run as root.

A quarter of an hour on a machine that does nothing else, and 30 GB below build/images.
Both stand on one stage, which is built once.

make image-check
make image-check VARIANT=cpu TORCH_INDEX=https://...

No image registry is asked: the base is made of Debian's packages, and the wheels are
fetched beforehand, each with its hash in the lock. Programs run as in a container: not
as root, in a root file system that nobody can write to.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.machine.needs import needs_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

_PROJECT = Path(__file__).resolve().parents[2]
_DOCKER = _PROJECT / "deploy" / "docker"
_BUILD = _PROJECT / "build" / "images"
_PACKAGES = "python3,python3-venv,ca-certificates,libgomp1"
_USER = "10001:10001"
_KEY = "ed25519:" + "0" * 64
_VARIANT = os.environ.get("VARIANT", "cuda")
_TORCH_INDEX = os.environ.get("TORCH_INDEX")


@dataclass(frozen=True, slots=True)
class Target:
    """What one image says beside its files.

    Args:
        config: User, entry point, environment.
        health_check: What looks whether it serves.
    """

    config: dict[str, object]
    health_check: list[str]


@dataclass(frozen=True, slots=True)
class Images:
    """The built images: one folder, since they differ by no file.

    Args:
        root: Their root file system.
        server: The server's own.
        client: The client's own.
    """

    root: Path
    server: Target
    client: Target

    def run(self, *words: str, state: Path) -> subprocess.CompletedProcess[str]:
        """Runs a program of the image as its user, its root read-only."""
        inside = " ".join(words)
        script = (
            f"mount --bind {self.root} {self.root} && "
            f"mount --bind {state} {self.root}/var/lib/moma && "
            f"mount -t tmpfs tmpfs {self.root}/tmp && "  # noqa: S108 - the image's
            f"mount --rbind /proc {self.root}/proc && "
            f"mount -t tmpfs tmpfs {self.root}/dev && "
            f"mknod -m 666 {self.root}/dev/null c 1 3 && "
            f"mknod -m 666 {self.root}/dev/urandom c 1 9 && "
            f"mount -o remount,bind,ro {self.root} && "
            f"exec chroot --userspec={_USER} {self.root} "
            f"/usr/bin/env -i {' '.join(self._environment())} "
            f"/bin/sh -c 'cd /var/lib/moma && {inside}'"
        )
        return subprocess.run(
            [
                _program("unshare"),
                "--mount",
                "--propagation=private",
                "sh",
                "-c",
                script,
            ],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def _environment(self) -> list[str]:
        told = self.server.config["Env"]
        assert isinstance(told, list)
        return [str(one) for one in told]


def _buildah(*words: str | Path) -> str:
    places = ("--root", _BUILD / "store", "--runroot", _BUILD / "run")
    done = subprocess.run(
        [_program("buildah"), "--storage-driver", "vfs", *places, *words],
        stdout=subprocess.PIPE,
        text=True,
        timeout=3000,
        check=True,
        env={**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(_BUILD)},
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def images() -> Iterator[Images]:
    if os.geteuid() != 0:
        pytest.skip("makes and mounts file systems: needs root")
    mmdebstrap = _program("mmdebstrap")
    _program("buildah")
    shutil.rmtree(_BUILD, ignore_errors=True)
    started = time.monotonic()
    _step(started, "wheels, each with its hash in the lock")
    wheels = _wheels()
    _step(started, "base of Debian's packages")
    base = _BUILD / "base.tar"
    _run(mmdebstrap, "--variant=apt", f"--include={_PACKAGES}", "bookworm", base)
    container = _buildah("from", "scratch")
    _buildah("add", "--quiet", container, base, "/")
    _buildah("commit", "--quiet", "--rm", container, "localhost/python")
    base.unlink()
    _step(started, f"buildah bud, {_VARIANT}")
    _bud(
        "runtime",
        *("--build-arg", "BASE=localhost/python"),
        *("--build-arg", f"VARIANT={_VARIANT}"),
        *("--build-arg", "PIP_ARGS=--no-index --find-links=/wheels"),
        *("--volume", f"{wheels}:/wheels:ro"),
    )
    shutil.rmtree(wheels)
    server, client = _target("server"), _target("client")
    container = _buildah("from", "localhost/runtime")
    root = Path(_buildah("mount", container))
    _step(started, f"{_bytes(root) / 1e9:.2f} GB, of which torch is most")
    try:
        yield Images(root, server, client)
    finally:
        _buildah("umount", container)
        shutil.rmtree(_BUILD, ignore_errors=True)


def _bud(target: str, *words: str) -> None:
    """Builds a stage of the Dockerfile, and tags it by the stage's name."""
    _buildah(
        *("bud", "--quiet", "--isolation", "chroot", "--layers=false"),
        *("--format", "docker"),  # OCI's own has no health check
        *(*words, "--target", target, "--tag", f"localhost/{target}"),
        *("--file", _DOCKER / "Dockerfile", _PROJECT),
    )


def _target(name: str) -> Target:
    """Builds an image on the stage that is there, and returns what it says."""
    stage = "runtime=container-image://localhost/runtime"
    _bud(name, "--build-context", stage)
    told = json.loads(_buildah("inspect", "--type", "image", f"localhost/{name}"))
    _buildah("rmi", f"localhost/{name}")  # its files are the stage's
    health_check = told["Docker"]["config"]["Healthcheck"]["Test"]
    return Target(told["OCIv1"]["config"], health_check)


def _wheels() -> Path:
    folder = _BUILD / "wheels"
    folder.mkdir(parents=True)
    for name in ("build", "base", _VARIANT):
        lock = _DOCKER / "requirements" / f"{name}.txt"
        index = ("--index-url", _TORCH_INDEX) if name == "cpu" and _TORCH_INDEX else ()
        _run(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *index),
            *("--require-hashes", "--requirement", lock, "--dest", folder),
        )
    return folder


def _program(name: str) -> Path:
    (path,) = needs_program(name)
    return path


def _run(*words: str | Path) -> None:
    subprocess.run(words, check=True, timeout=3000)


def _step(started: float, text: str) -> None:
    print(f"{time.monotonic() - started:6.0f} s  {text}", flush=True)  # noqa: T201


def _bytes(folder: Path) -> int:
    done = subprocess.run(
        [_program("du"), "--summarize", "--bytes", folder],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return int(done.stdout.split()[0])


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "moma"
    folder.mkdir()
    os.chown(folder, *map(int, _USER.split(":")))
    return folder


def test_the_programs_start_without_root_in_a_read_only_root(
    images: Images, state: Path
) -> None:
    server = images.run(
        "touch /written; id -u; "
        "moma-server init server --roles coordinator && "
        "moma-server --config server/server.yaml --check",
        state=state,
    )
    client = images.run(
        f"moma-client init site --name site-a --teacher-key {_KEY} && "
        "moma-client --site site/config.yaml --check",
        state=state,
    )

    assert "Read-only file system" in server.stderr
    assert server.stdout.splitlines()[0] == "10001"
    assert (server.returncode, client.returncode) == (0, 0), server.stderr
    assert (state / "server" / "ca.key").stat().st_uid == 10001
    assert not (images.root / "written").exists()


def test_a_coordinator_serves_and_is_healthy(images: Images, state: Path) -> None:
    served = images.run(
        "moma-server init server --roles coordinator > /dev/null; "
        "moma-server --config server/server.yaml & "
        "for n in $(seq 120); do healthy && break; sleep 1; done; "
        'healthy; echo "healthy $?"; kill -TERM $!; wait $!; echo "ended $?"',
        state=state,
    )

    assert served.stdout.splitlines()[-2:] == ["healthy 0", "ended 0"], served.stderr


def test_torch_of_the_variant_and_the_models_load(images: Images, state: Path) -> None:
    loaded = images.run(
        'python -c "import torch, torchvision, timm, flwr, psycopg; '
        'print(torch.version.cuda is not None)"',
        state=state,
    )

    said = f"{_VARIANT == 'cuda'}\n"
    assert (loaded.stdout, loaded.returncode) == (said, 0), loaded.stderr


def test_the_images_say_what_is_in_them(images: Images) -> None:
    bill = json.loads((images.root / "opt/moma/sbom.cdx.json").read_text())
    parts = {part["name"] for part in bill["components"]}

    assert bill["bomFormat"] == "CycloneDX"
    assert {"torch", "flwr", "cryptography", "moma-service"} <= parts
    assert not (images.root / "opt/moma/bin/pip").exists()


def test_each_image_says_how_it_is_run(images: Images) -> None:
    named = {"moma-server": images.server, "moma-client": images.client}

    for program, target in named.items():
        assert target.config["User"] == _USER
        assert target.config["Entrypoint"] == [program]
        assert target.health_check == ["CMD", "healthy"]
