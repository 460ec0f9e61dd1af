"""A site's run, from top to bottom.

data, teacher card, scenario -> a task of the coordinator -> what others saw of the
teacher's log -> each student's share of the round -> the figures that may leave -> the
report -> the next task
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from moma_client.cache.folder import CacheFolder
from moma_client.cache.views import batch_plan
from moma_client.config.site import SiteConfig
from moma_client.context import RunContext
from moma_client.egress.outcome import StudentOutcome
from moma_client.egress.to_coordinator import (
    CoordinatorEgress,
    measured_figures,
    round_bounds,
)
from moma_client.federation.node import FederationNode
from moma_client.federation.run_state import look_at_coordinator, request_run_state
from moma_client.identity.node import node_settings
from moma_client.site.teachers import RunTeachers
from moma_client.student.checks import look_at_data
from moma_client.student.factory import SiteTeacher, StudentJob
from moma_client.student.launch import run_student
from moma_client.student.round import SiteCallback
from moma_client.student.run_identity import check_resumes
from moma_client.student.teacher_weights import read_weights
from moma_client.teacher.gossip import compare_with_others
from moma_client.teacher.usage import read_all_queries, recorded
from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION, PatchSource
from moma_core.data.sources.factory import open_source
from moma_core.distillation.methods.names import Method
from moma_core.errors import (
    ConfigError,
    DiskError,
    FederationError,
    MomaError,
    ReplayError,
    StoppedError,
    TeacherBusyError,
    TeacherUnavailableError,
    TrainingError,
)
from moma_core.federation.disclosure import CANNOT_TRAIN
from moma_core.federation.run_state import RunState
from moma_core.federation.schedule import look_at_steps, with_epochs
from moma_core.federation.task import RoundTask
from moma_core.pki.identity import PeerName, read_peer
from moma_core.pki.key_files import load_or_create_secret
from moma_core.runtime.canonical_json import parsed_json
from moma_core.runtime.clock import utc_now
from moma_core.runtime.files import (
    append_json,
    make_folder,
    stat_fingerprint,
    write_private,
)
from moma_core.runtime.finding import heed
from moma_core.training.plausible import look_at_warmup

_logger = logging.getLogger(__name__)


class SiteSession:
    """One site taking part until the run is over.

    Args:
        context: Settings, stop and metrics of this process.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._egress = CoordinatorEgress(context.config, context.metrics)

    def run(self) -> None:
        """Takes part; returns when the coordinator closed the run.

        Raises:
            StoppedError: The operator stopped it; the same command resumes.
            MomaError: It cannot go on; the coordinator was sent a refusal.
        """
        config, stop, _ = self._context
        _check_identity(config)
        state = _run_state(config)
        if state is not None and state.phase == "over":
            _logger.info("%s", state.sentence(utc_now()))
            return
        source = _open_data(config)
        teachers = RunTeachers.onboard(self._context, source)
        steps = batch_plan(config, source.index).steps_per_epoch
        rounds = SiteRounds(self._context, self._egress, teachers, steps)
        is_over = False
        # what was said of the round is old by now: the node hears it anew
        task_run = None if state is None else state.task_run
        with FederationNode(node_settings(config), task_run) as node:
            for task in node.tasks(stop):
                rounds.handle(task, node)
                is_over = task.kind == "close"
        if is_over:
            _logger.info("the run is over")
        elif node.state is not None and node.state.phase == "over":
            _logger.info("%s", node.state.sentence(utc_now()))
        else:
            raise StoppedError("stopped between two rounds")


class SiteRounds:
    """Does a coordinator's tasks, one round after the other.

    Args:
        context: Settings, stop and metrics of this process.
        egress: The one way out to the coordinator.
        teachers: The site's teachers.
        steps_per_epoch: Optimiser steps of one pass over the patches.
    """

    def __init__(
        self,
        context: RunContext,
        egress: CoordinatorEgress,
        teachers: RunTeachers,
        steps_per_epoch: int,
    ) -> None:
        self._context, self._egress = context, egress
        self._teachers, self._steps_per_epoch = teachers, steps_per_epoch
        self._runs = context.config.state_dir / "runs"
        self._is_checked = False

    def handle(self, task: RoundTask, node: FederationNode) -> None:
        """Reports what may leave of the students' figures, or a refusal.

        Raises:
            StoppedError: The operator stopped it.
            MomaError: The site cannot go on; the coordinator was sent a refusal.
        """
        task = self._scheduled(task)
        if not self._egress.settles(node, task):
            self._take_round(task, node)

    def _take_round(self, task: RoundTask, node: FederationNode) -> None:
        """Trains or closes; whatever goes wrong, the coordinator hears of it."""
        try:
            compare_with_others(self._context, task.checkpoints)
            outcomes = self._train(task)
            disclosed = self._report(node, task, outcomes)
        except StoppedError:
            raise
        except ReplayError as error:
            _logger.warning("round %d: %s", task.round, error)
            renew_request_ids(self._context.config, self._runs / task.run)
            self._egress.fail(node, task)
        except MomaError as error:
            if not _may_pass(error, task):
                self._refuse(node, task)
                raise
            # Not the end: the next round trains the epochs that were missed.
            _logger.warning("round %d: %s", task.round, error)
            self._egress.fail(node, task)
        except Exception:  # the coordinator need not wait for what will not come
            self._egress.fail(node, task)
            raise
        else:
            self._keep(task, outcomes, disclosed)

    def _scheduled(self, task: RoundTask) -> RoundTask:
        """Returns the task with the epochs that its steps take here; warns of few."""
        steps = self._steps_per_epoch
        task = with_epochs(task, steps, round_bounds(self._context.config))
        if task.kind == "train" and task.round == 1:
            epochs = task.rounds * task.local_epochs
            _logger.info("this run: %d steps in %d epochs", steps * epochs, epochs)
            heed(look_at_steps(steps, epochs), _logger)
            training = self._context.config.training
            heed(look_at_warmup(training, steps * epochs), _logger)
        return task

    def _train(self, task: RoundTask) -> dict[Method, StudentOutcome]:
        """Fills the teacher cache, then trains one student after the other."""
        config, folder = self._context.config, self._runs / task.run
        run_key = load_or_create_secret(_run_key(folder))
        outcomes: dict[Method, StudentOutcome] = {}
        methods: tuple[Method, ...] = ("moma", *config.baselines)

        def job(method: Method, teachers: tuple[SiteTeacher, ...]) -> StudentJob:
            return StudentJob(config, method, teachers, folder / method, run_key, task)

        self._check_resumes([job(each, self._teachers.of_round()) for each in methods])
        with _progress_bar() as progress, recorded(self._context, folder):
            teachers = self._teachers.prepare(task, folder, progress)
            for method in methods:
                callback = SiteCallback(self._context, progress, method)
                outcomes[method] = run_student(job(method, teachers), callback)
        return outcomes

    def _check_resumes(self, jobs: Sequence[StudentJob]) -> None:
        """Refuses what changed since the run began, before patches are asked."""
        if not self._is_checked and any(job.folder.exists() for job in jobs):
            source = open_source(self._context.config.data)
            for job in jobs:
                check_resumes(job, source)
        self._is_checked = True  # nothing changes while this program lives

    def _report(
        self,
        node: FederationNode,
        task: RoundTask,
        outcomes: Mapping[Method, StudentOutcome],
    ) -> dict[str, float]:
        """Returns the figures that were disclosed."""
        disclosed = self._egress.report(node, task, outcomes)
        figures = ", ".join(f"{name} {value:g}" for name, value in disclosed.items())
        _logger.info(
            "round %d/%d %s is done, disclosed: %s",
            task.round,
            task.rounds,
            task.kind,
            figures or "no figure",
        )
        return disclosed

    def _keep(
        self,
        task: RoundTask,
        outcomes: Mapping[Method, StudentOutcome],
        disclosed: Mapping[str, float],
    ) -> None:
        """Adds a round that was reported to the site's own record."""
        measured = measured_figures(outcomes)
        values = {key: figure.value for key, figure in measured.items()}
        decimals = self._context.config.egress.decimals
        details = {
            method: {split: each.as_json() for split, each in found.evaluations.items()}
            for method, found in outcomes.items()
        }
        folder = self._runs / task.run
        queries = read_all_queries(self._context.config, folder)
        asked = sum(each.asked for each in queries.values()) if queries else None
        further: dict[str, object] = {"decimals": decimals, "details": details}
        if weights := read_weights(folder, task.round):
            further["teachers"] = weights
        further["asked"] = asked
        _keep_figures(folder, task, values, disclosed, further)

    def _refuse(self, node: FederationNode, task: RoundTask) -> None:
        """Reports that the site cannot train; a full disk takes no sentence of it."""
        try:
            self._egress.refuse(node, task, CANNOT_TRAIN)
        except DiskError:
            self._egress.fail(node, task)


def _may_pass(error: MomaError, task: RoundTask) -> bool:
    """Whether a failed round says nothing of the next one.

    A loss of NaN may come of the weights that the coordinator sent with the task.
    """
    if isinstance(error, TrainingError):
        return task.weights is not None
    return isinstance(error, TeacherUnavailableError | TeacherBusyError)


def _check_identity(config: SiteConfig) -> None:
    """Refuses to go out under another name than the config's."""
    try:
        peer = read_peer(config.identity.certificate.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read identity.certificate: {error}") from None
    own = PeerName(config.federation, "site", config.site)
    found = PeerName(peer.federation, peer.kind, peer.name)
    if found != own:
        raise ConfigError(
            f"identity.certificate is of {found}, the config of {own}: write its names "
            f"into the config (site, federation), or enrol under those of the config"
        )


def _run_state(config: SiteConfig) -> RunState | None:
    """Returns how the run stands; a wrong port is told before any work.

    None: the coordinator is away, or of a release that does not say it.

    Raises:
        ConfigError: Another port than that of the rounds answers.
        NotAuthorizedError: Who answers is no coordinator of this federation.
    """
    settings = node_settings(config)
    try:
        look_at_coordinator(settings)
        return request_run_state(settings)
    except FederationError as error:
        _logger.warning("%s; the site goes on, and tries again later", error)
        return None


def _open_data(config: SiteConfig) -> PatchSource:
    source = open_source(config.data)
    _logger.info(
        "patches: %d labelled and %d unlabelled to train on, %d to validate, %d unseen",
        len(source.index.rows(TRAIN, labelled=True)),
        len(source.index.rows(TRAIN, labelled=False)),
        len(source.index.rows(VALIDATION)),
        len(source.index.rows(UNSEEN)),
    )
    heed(look_at_data(config, source), _logger)
    return source


def _run_key(folder: Path) -> Path:
    return folder / "request.key"


def renew_request_ids(config: SiteConfig, folder: Path) -> None:
    """Has the next round ask under new ids, since the teacher repeats no old ones.

    They are charged again. So it happens once a run: who carries the requests can use
    up what a teacher repeats for free, by withholding its responses.
    """
    renewed, own = folder / "ids-renewed", _run_key(folder)
    caches = [CacheFolder(each) for each in config.each_teacher]
    keys = [own, *(cache.request_key_file() for cache in caches)]
    if not renewed.exists():
        make_folder(folder)
        write_private(renewed, json.dumps(list(map(_stamp, keys))).encode())
    elif not _is_interrupted(renewed, *keys):
        _logger.error("request ids were made anew once in this run: no others are")
        return
    _logger.warning("repeated requests cost again")
    for cache in caches:
        cache.forget_requests()
    own.unlink(missing_ok=True)


def _is_interrupted(renewed: Path, *keys: Path) -> bool:
    """Whether a key is still the one that was to go: a kill came in between."""
    try:
        gone = parsed_json(renewed.read_bytes())
    except ValueError:  # an earlier release wrote nothing
        return False
    pairs = zip(keys, gone if isinstance(gone, list) else (), strict=False)
    return any(stamp and _stamp(key) == stamp for key, stamp in pairs)


def _stamp(key: Path) -> list[list[int]]:
    """Returns what is another for each file that is made; nothing for none."""
    return [list(stat) for stat in stat_fingerprint(key)] if key.exists() else []


@contextmanager
def _progress_bar() -> Iterator[Progress | None]:
    """Yields a bar on a terminal, None in a log."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield None
        return
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        yield progress


def _keep_figures(
    folder: Path,
    task: RoundTask,
    measured: Mapping[str, float],
    disclosed: Mapping[str, float],
    further: Mapping[str, object],
) -> None:
    """Adds a line to the site's own record: what was measured, and what disclosed."""
    line = {"round": task.round, "kind": task.kind, "figures": measured}
    append_json(folder / "figures.jsonl", {**line, "told": disclosed, **further})
