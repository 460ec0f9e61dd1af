"""Writes `requirements/`: what the images install, each file by its hashes.

base.txt   all that the programs need, but torch and what torch alone wants
cuda.txt   torch with CUDA, as the package index has it
build.txt  what builds the wheel and the bill of materials, and stays out of the image
cpu.txt    torch's CPU build, as the index has it that is named; else it stays as it is

make lock
make lock TORCH_INDEX=https://...
"""

import re
import subprocess
import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent / "requirements"
_PROJECT = _FOLDER.parents[2]
_EXTRAS = ("demo", "onnx", "postgres", "slides")
_OF_TORCH = re.compile(r"^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==")
_TORCH = re.compile(r"^(torch|torchvision)==[0-9.]+")
_HEAD = "# make lock\n"


def compiled(source: str, *options: str, given: str = "") -> list[str]:
    """Returns the lock of a requirements file, one requirement with its hashes each.

    Args:
        source: Its name; `-` takes `given`.
        options: Of uv.
        given: Requirements, one a line.
    """
    uv = Path(sys.executable).parent / "uv"
    done = subprocess.run(  # noqa: S603 - our own words
        [
            *(str(uv), "pip", "compile", source, *options, "--quiet"),
            *("--constraints", "constraints.txt", "--generate-hashes", "--universal"),
            *("--python-version", "3.11", "--no-annotate", "--no-header"),
        ],
        cwd=_PROJECT,
        check=True,
        input=given,
        capture_output=True,
        text=True,
    )
    return re.split(r"^(?=\S)", done.stdout, flags=re.MULTILINE)[1:]


def cpu_lock(requirements: list[str], index: str) -> list[str]:
    """Returns the lock of torch's CPU build, in the versions of `requirements`.

    Args:
        requirements: A lock that has torch and torchvision.
        index: URL of the package index that has the CPU build.
    """
    pinned = [_TORCH.match(one) for one in requirements]
    wanted = [f"{found[0]}+cpu" for found in pinned if found is not None]
    options = ("--no-deps", "--default-index", index)
    return compiled("-", *options, given="\n".join(wanted))


def main() -> None:
    """Writes the files."""
    extras = (word for extra in _EXTRAS for word in ("--extra", extra))
    ours = compiled("pyproject.toml", *extras)
    parts = {
        "base.txt": [one for one in ours if not _OF_TORCH.match(one)],
        "cuda.txt": [one for one in ours if _OF_TORCH.match(one)],
        "build.txt": compiled("deploy/docker/requirements/build.in"),
    }
    if len(sys.argv) > 1:
        parts["cpu.txt"] = cpu_lock(ours, sys.argv[1])
    for name, requirements in parts.items():
        (_FOLDER / name).write_text(_HEAD + "".join(requirements), "utf-8")


if __name__ == "__main__":
    main()
