"""`moma-server demo`: a coordinator, a teacher and two hospitals, as real processes.

patches -> init -> teacher train -> serve and enrol -> both sites take part -> figures
"""

import logging
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from moma_core.errors import ConfigError, StoppedError
from moma_core.runtime.canonical_json import parsed_json
from moma_server.demo.institutions import (
    TEACHER_NAME,
    Ports,
    accept_terms,
    enrol_institutions,
    make_institutions,
)
from moma_server.demo.programs import CLIENT, SERVER, DemoError, Program, run_program
from moma_server.demo.report import DemoReport, Figures, by_split
from moma_server.demo.secrets_check import check_logs, check_nothing_leaked
from moma_server.demo.tissue import (
    SITES,
    TEACHER,
    Tissue,
    embedded_tissue,
    pathmnist_tissue,
)
from moma_server.metrics.metrics import SampleKey, read_samples, sample_key

_logger = logging.getLogger(__name__)

_MARK = "moma-demo"
_START_SECONDS = 90
_RUN_SECONDS = 3600


def run_demo(data: Path | None, out: Path, *, as_json: bool) -> Iterator[str]:
    """Runs everything and yields the report.

    Args:
        data: PathMNIST's file; None for the embedded set.
        out: New, or of an earlier demo, which is replaced.
        as_json: Whether the last line is the report as JSON.

    Raises:
        DemoError: A program did not do what it should, or something leaked.
        ConfigError: `out` holds something else.
    """
    start = time.monotonic()
    out = out.resolve()
    _empty_folder(out)
    tissue = pathmnist_tissue(data) if data else embedded_tissue()
    _logger.info("data set: %s", tissue.name)
    with _stop_on_sigterm():
        report = _federate(tissue, out, start)
    (out / "report.json").write_text(report.to_json() + "\n", "utf-8")
    yield from report.lines()
    if as_json:
        yield report.to_json()


def _federate(tissue: Tissue, out: Path, start: float) -> DemoReport:
    ports = Ports.free()
    _logger.info("making four institutions in %s", out)
    make_institutions(out, tissue, ports)
    _logger.info("the teacher is trained on its own patches")
    taught = _train_teacher(out)
    _logger.info("both sites accept its terms: %s", accept_terms(out))
    with ExitStack() as stack:
        _logger.info("coordinator and teacher start")
        _serve(stack, out, "coordinator", ports.metrics["coordinator"])
        enrol_institutions(out)
        _serve(stack, out, TEACHER, ports.metrics[TEACHER])
        _logger.info("both sites take part; progress stands in %s", out / "logs")
        _take_part(stack, out)
        samples = read_samples(_fetch(ports.metrics[TEACHER]))
        rounds = _rounds(out)
    checks = check_nothing_leaked(out) + check_logs(out)
    return DemoReport(
        dataset=tissue.name,
        claim=tissue.claim,
        seconds=round(time.monotonic() - start, 1),
        sites={site: _measured(out, site) for site in SITES},
        teacher=by_split(taught),
        queries={
            site: int(samples[_of("moma_teacher_patches_total", site)])
            for site in SITES
        },
        budget_left={
            site: samples[_of("moma_teacher_budget_remaining_ratio", site)]
            for site in SITES
        },
        rounds=rounds,
        scenario={site: _scenario(out, site) for site in SITES},
        checks=checks,
        out=str(out),
        details={**_details(out), "teacher": taught["details"]},
    )


def _train_teacher(out: Path) -> dict[str, Any]:
    folder = out / TEACHER
    printed = run_program(
        SERVER,
        (
            *("teacher", "train", "--json"),
            *("--recipe", folder / "recipe.yaml"),
            *("--out", folder / "teacher"),
        ),
        out / "logs" / "teacher-train.log",
    )
    figures: dict[str, Any] = parsed_json(printed)["figures"]
    return figures


def _serve(stack: ExitStack, out: Path, name: str, metrics_port: int) -> None:
    """Starts a server, and waits until its roles show up in its metrics."""
    config = out / name / "server.yaml"
    program = Program(name, SERVER, ("--config", config), out / "logs" / f"{name}.log")
    stack.callback(program.stop)
    sign = "moma_federation_sites" if name == "coordinator" else "moma_teacher_inflight"

    def is_ready() -> bool:
        try:
            return sign in _fetch(metrics_port)
        except (urllib.error.URLError, OSError):
            return False

    program.wait_until(is_ready, seconds=_START_SECONDS)


def _take_part(stack: ExitStack, out: Path) -> None:
    """Runs both sites at the same time, until both are done."""
    programs = []
    for site in SITES:
        arguments = ("--site", out / site / "config.yaml")
        log = out / "logs" / f"{site}.log"
        programs.append(Program(site, CLIENT, arguments, log))
        stack.callback(programs[-1].stop)
    deadline = time.monotonic() + _RUN_SECONDS
    while waiting := [program for program in programs if not program.is_done()]:
        if time.monotonic() > deadline:
            raise DemoError(f"{waiting[0].name} is not done after {_RUN_SECONDS} s")
        time.sleep(0.5)


def _measured(out: Path, site: str) -> dict[str, Figures]:
    """Reads what the site itself measured when its run was closed."""
    figures = _last_figures(out, site)["figures"]
    alone = {
        name.removeprefix("ce_"): value
        for name, value in figures.items()
        if name.startswith("ce_")
    }
    return {"moma": by_split(figures), "ce": by_split(alone)}


def _details(out: Path) -> dict[str, dict[str, Any]]:
    """Returns n and intervals by row of the report."""
    return {
        f"{site} {method}": found
        for site in SITES
        for method, found in _last_figures(out, site)["details"].items()
    }


def _last_figures(out: Path, site: str) -> dict[str, Any]:
    (path,) = (out / site / "state" / "runs").glob("*/figures.jsonl")
    line: dict[str, Any] = parsed_json(path.read_text("utf-8").splitlines()[-1])
    return line


def _rounds(out: Path) -> list[dict[str, Any]]:
    printed = run_program(
        SERVER,
        ("status", "--json", "--config", out / "coordinator" / "server.yaml"),
        out / "logs" / "coordinator.log",
    )
    history: list[dict[str, Any]] = parsed_json(printed)["run"]["history"]
    return history


def _scenario(out: Path, site: str) -> str:
    (card,) = (out / site / "state" / "runs").glob("*/moma/student.json")
    return str(parsed_json(card.read_text("utf-8"))["scenario"])


def _of(metric: str, site: str) -> SampleKey:
    return sample_key(metric, site=site, teacher=TEACHER_NAME)


def _fetch(port: int) -> str:
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as response:
        text: bytes = response.read()
    return text.decode()


def _empty_folder(out: Path) -> None:
    """Replaces an earlier demo, and nothing else."""
    if out.exists() and any(out.iterdir()):
        if not (out / _MARK).exists():
            raise ConfigError(f"{out} holds something that is no demo; name another")
        shutil.rmtree(out)
    (out / "logs").mkdir(parents=True)
    (out / _MARK).touch()


@contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """Turns SIGTERM and Ctrl-C into an error, so that every program is stopped."""

    def heard(_number: int, _frame: object) -> None:
        raise StoppedError("the demo was stopped, and with it all its programs")

    before = {
        number: signal.signal(number, heard)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
