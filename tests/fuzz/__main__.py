"""Fuzzes parsers with atheris, each in a process of its own: `make fuzz`.

What was found lies in the folder of findings, and comes again with the same command:
an input that is read at the start is the first to be tried. Mend it, and keep the input
in the corpus.
"""

import argparse
import hashlib
import importlib.util
import os
import resource
import subprocess
import sys
import traceback
from pathlib import Path

from tests.fuzz.targets import TARGETS, target

CORPUS = Path(__file__).parent / "corpus"

_LONGEST_INPUT = 1 << 16
_SECONDS_AN_INPUT = 10
_ROOM_BYTES = 2 << 30  # beyond what a process has before its first input
_MOST_MEBIBYTES = 3072
_FOUND = 77  # as libFuzzer ends
_PACKAGES = ["moma_core", "moma_proto", "moma_server", "moma_client"]


def main() -> int:
    """Fuzzes the targets that are named, or all; returns how it ended."""
    arguments = _parsed()
    if importlib.util.find_spec("atheris") is None:
        print(
            "nothing is fuzzed: atheris is not installed, pip install atheris (it has "
            "wheels for Linux); the short tests of tests/fuzz run without it"
        )
        return 0
    if unknown := set(arguments.targets) - TARGETS.keys():
        print(f"there is no target {sorted(unknown)}; there is {', '.join(TARGETS)}")
        return 2
    if arguments.one:
        _fuzz(arguments.one, arguments.seconds, arguments.out)
    failed = [
        name
        for name in arguments.targets or TARGETS
        if not _is_clean(name, arguments.seconds, arguments.out)
    ]
    for name in failed:
        print(f"{name}: see {arguments.out / name}")
    print(f"{len(failed)} of {len(arguments.targets or TARGETS)} targets had findings")
    return 1 if failed else 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser("tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=int, default=600, help="of each target")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--one", choices=TARGETS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _is_clean(name: str, seconds: int, out: Path) -> bool:
    """Fuzzes one target in a process of its own, since a finding ends it."""
    folder = out / name
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target(name).seeds):
        (folder / "corpus" / f"seed-{number}").write_bytes(seed)
    command = [sys.executable, "-m", "tests.fuzz", f"--seconds={seconds}"]
    with (folder / "log").open("wb") as log:
        done = subprocess.run(
            [*command, f"--out={out}", f"--one={name}"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
        )
    runs = [
        line
        for line in (folder / "log").read_text("utf-8", "replace").splitlines()
        if line.startswith("Done ")
    ]
    how = runs[-1] if runs else f"ended with {done.returncode}"
    print(f"{name}: {how}", flush=True)
    return done.returncode == 0


def _fuzz(name: str, seconds: int, out: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris  # type: ignore[import-not-found,unused-ignore]

    # what was imported by now is not instrumented
    for module in [each for each in sys.modules if _is_watched(each)]:
        del sys.modules[module]
    with atheris.instrument_imports(include=_PACKAGES):
        from tests.fuzz.target import is_taken
        from tests.fuzz.targets import target

        tested = target(name)
    _bound_memory()
    folder = out / name

    def feed(content: bytes) -> None:
        try:
            is_taken(tested, content)
        except Exception:  # noqa: BLE001 - a finding, whatever it is
            traceback.print_exc()
            digest = hashlib.sha256(content).hexdigest()
            (folder / f"crash-{digest[:16]}").write_bytes(content)
            os._exit(_FOUND)  # threads of a library must not hold up the end

    atheris.Setup(
        [
            "fuzz",
            str(folder / "corpus"),
            str(CORPUS / name),
            f"-artifact_prefix={folder}/",
            f"-max_total_time={seconds}",
            f"-max_len={_LONGEST_INPUT}",
            f"-timeout={_SECONDS_AN_INPUT}",
            f"-rss_limit_mb={_MOST_MEBIBYTES}",
        ],
        feed,
    )
    atheris.Fuzz()


def _bound_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _is_watched(module: str) -> bool:
    return module.split(".")[0] in {*_PACKAGES, "tests"} and module != "tests"


if __name__ == "__main__":
    raise SystemExit(main())
