"""A site's run, from top to bottom.

data, teacher card, scenario -> a task of the coordinator -> what others saw of the
teacher's log -> each student's share of the round -> the figures that may leave -> the
report -> the next task
"""

import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from moma_client.cache.folder import CacheFolder, cached_section
from moma_client.config.site import SiteConfig
from moma_client.config.teacher import LocalTeacherSection
from moma_client.egress.outcome import StudentOutcome
from moma_client.egress.to_coordinator import CoordinatorEgress, measured_figures
from moma_client.federation.node import FederationNode, NodeSettings
from moma_client.identity.keys import made_once
from moma_client.identity.revocations import revoked_file
from moma_client.metrics import ClientMetrics
from moma_client.site.prefetch import CachePrefetch
from moma_client.student.factory import check_students, scenario_of
from moma_client.student.job import StudentJob
from moma_client.student.launch import run_student
from moma_client.student.progress import SiteCallback, progress_bar
from moma_client.teacher.connect import remote_settings
from moma_client.teacher.gossip import compare_with_others
from moma_client.teacher.onboarding import audit_sentence, onboard, verify_remote
from moma_client.teacher.usage import recorded
from moma_core.data.patch import TRAIN, UNSEEN, VALIDATION, PatchSource
from moma_core.data.sources.factory import open_source
from moma_core.distillation.methods.names import Method
from moma_core.distillation.scenario import Scenario
from moma_core.errors import (
    ConfigError,
    MomaError,
    ReplayError,
    StoppedError,
    TeacherBusyError,
    TeacherUnavailableError,
)
from moma_core.federation.disclosure import CANNOT_TRAIN
from moma_core.federation.task import RoundTask
from moma_core.pki.identity import read_peer
from moma_core.pki.names import PeerName
from moma_core.teacher.card.card import TeacherCard

_logger = logging.getLogger(__name__)


class SiteSession:
    """One site taking part until the run is over.

    Args:
        config: The site's.
        stop: Set by the operator.
        metrics: The site's.
    """

    def __init__(
        self, config: SiteConfig, stop: threading.Event, metrics: ClientMetrics
    ) -> None:
        self._config, self._stop, self._metrics = config, stop, metrics
        self._egress = CoordinatorEgress(config, metrics)
        self._runs = config.state_dir / "runs"
        self._filling: CachePrefetch | None = None
        self._is_verified = False

    def run(self) -> None:
        """Takes part; returns when the coordinator closed the run.

        Raises:
            StoppedError: The operator stopped it; the same command resumes.
            MomaError: It cannot go on; the coordinator was told so.
        """
        self._check_identity()
        source = self._look_at_data()
        card, terms, self._is_verified = onboard(
            self._config,
            self._stop,
            self._metrics,
            lambda card: check_students(self._config, card, source),
        )
        _logger.info("teacher %s (%s): %s", card.name, card.architecture, terms)
        _logger.info("its membership audit: %s", audit_sentence(card))
        scenario = scenario_of(self._config, card, source.class_names)
        _logger.info("scenario %s", scenario)
        is_over = False
        with FederationNode(self._node_settings()) as node:
            for task in node.tasks(self._stop):
                self._do(task, card, scenario, node)
                is_over = task.kind == "close"
        if not is_over:
            raise StoppedError("stopped between two rounds")
        _logger.info("the run is over")

    def _check_identity(self) -> None:
        """Refuses to go out under another name than the config's."""
        path = self._config.identity.certificate
        try:
            peer = read_peer(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"cannot read identity.certificate: {error}") from None
        own = PeerName(self._config.federation, "site", self._config.site)
        found = PeerName(peer.federation, peer.kind, peer.name)
        if found != own:
            raise ConfigError(
                f"identity.certificate is of {found}, the config of {own}"
            )

    def _look_at_data(self) -> PatchSource:
        source = open_source(self._config.data)
        _logger.info(
            "patches: %d labelled and %d unlabelled to train on, "
            "%d to validate, %d unseen",
            len(source.index.rows(TRAIN, labelled=True)),
            len(source.index.rows(TRAIN, labelled=False)),
            len(source.index.rows(VALIDATION)),
            len(source.index.rows(UNSEEN)),
        )
        return source

    def _do(
        self,
        task: RoundTask,
        card: TeacherCard,
        scenario: Scenario,
        node: FederationNode,
    ) -> None:
        """Answers with a refusal, or with what may leave of the students' figures."""
        refusal = self._egress.refusal(task)
        if refusal is not None:
            _logger.warning("round %d is refused: %s", task.round, refusal.sentence)
            self._egress.refuse(node, task, refusal)
            return
        try:
            compare_with_others(
                self._config, task.checkpoints, self._stop, self._metrics
            )
            outcomes = self._train(task, card, scenario)
        except StoppedError:
            raise
        except (TeacherUnavailableError, TeacherBusyError) as error:
            # Not the end: whatever asks next catches up with what was missed.
            _logger.warning("round %d: %s", task.round, error)
            self._egress.fail(node, task)
        except ReplayError as error:
            _logger.warning("round %d: %s", task.round, error)
            self._renew_ids(task.run)
            self._egress.fail(node, task)
        except MomaError:
            self._egress.refuse(node, task, CANNOT_TRAIN)
            raise
        else:
            self._tell(node, task, outcomes)

    def _renew_ids(self, run: str) -> None:
        """Has the next round ask under new ids, since the teacher repeats no old ones.

        They are charged again. So it happens once a run: who carries the questions can
        use up what a teacher repeats for free, by withholding its answers.
        """
        renewed = self._runs / run / "ids-renewed"
        if renewed.exists():
            _logger.error("request ids were made anew once in this run: no others are")
            return
        renewed.parent.mkdir(parents=True, exist_ok=True)
        renewed.touch()
        _logger.warning("repeated requests cost again")
        self._run_key(run).unlink(missing_ok=True)
        CacheFolder(self._config).forget_requests()

    def _verify_teacher(self, card: TeacherCard) -> None:
        """Has the teacher answer its reference patch, unless it did in this run.

        Raises:
            MismatchError: It is not the model of its card.
            TeacherError: It does not answer, or refuses.
        """
        section = self._config.teacher
        if self._is_verified or isinstance(section, LocalTeacherSection):
            return
        settings = remote_settings(self._config, section)
        verify_remote(self._config, settings, card, self._stop, self._metrics)
        self._is_verified = True

    def _node_settings(self) -> NodeSettings:
        return NodeSettings(
            address=self._config.coordinator.address,
            ca_certificate=self._config.identity.authority,
            node_key=self._config.identity.node_key,
            passphrase_file=self._config.identity.passphrase_file,
            folder=self._config.state_dir / "node",
            revoked=revoked_file(self._config),
        )

    def _train(
        self, task: RoundTask, card: TeacherCard, scenario: Scenario
    ) -> dict[Method, StudentOutcome]:
        folder = self._runs / task.run
        key = made_once(self._run_key(task.run))
        outcomes = {}
        if self._filling is None:
            self._filling = CachePrefetch(
                self._config,
                card,
                self._stop,
                self._metrics,
                verify=lambda: self._verify_teacher(card),
            )
        if task.kind == "train" and cached_section(self._config) is None:
            self._verify_teacher(card)
        noted = recorded(self._config, folder, self._stop, self._metrics)
        with progress_bar() as progress, noted:
            self._filling.prepare(task, folder, progress)
            for method in self._methods():
                watch = SiteCallback(self._stop, self._metrics, progress, method)
                job = StudentJob(
                    self._config,
                    method,
                    card,
                    scenario,
                    folder / method,
                    key,
                    task,
                    self._is_verified,
                )
                outcomes[method] = run_student(job, watch, self._metrics)
        return outcomes

    def _methods(self) -> tuple[Method, ...]:
        return ("moma", *self._config.baselines)

    def _run_key(self, run: str) -> Path:
        return self._runs / run / "request.key"

    def _tell(
        self,
        node: FederationNode,
        task: RoundTask,
        outcomes: Mapping[Method, StudentOutcome],
    ) -> None:
        measured = measured_figures(outcomes)
        values = {key: figure.value for key, figure in measured.items()}
        told = self._egress.tell(node, task, outcomes)
        _keep_figures(self._runs / task.run, task, values, told)
        _logger.info(
            "round %d/%d %s: %s",
            task.round,
            task.rounds,
            task.kind,
            ", ".join(f"{name} {value:g}" for name, value in told.items()),
        )


def _keep_figures(
    folder: Path,
    task: RoundTask,
    measured: Mapping[str, float],
    told: Mapping[str, float],
) -> None:
    """Adds one line to the site's own record: what was measured, and what was told."""
    values = {"round": task.round, "kind": task.kind, "figures": measured, "told": told}
    with (folder / "figures.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")
