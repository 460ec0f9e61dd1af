"""What the doctor says of a site in order, and of sites that are broken in one way."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from moma_client.cli.main import main
from moma_client.config.site import SiteConfig
from moma_client.identity.state_owner import take_folder
from moma_client.reports.doctor.network import look_at_plan
from moma_client.reports.doctor.run import examine, exit_error
from moma_core.end_to_end.signatures import SigningKey
from moma_core.errors import ConfigError, RefusedError, TeacherUnavailableError
from moma_core.federation.run_state import RunState
from moma_core.pki.certificates import Credential
from moma_core.pki.identity import PeerName
from moma_core.pki.key_files import read_passphrase, sealed_key
from moma_core.runtime.files import write_private
from moma_core.runtime.finding import Finding
from moma_core.teacher.card.licence import terms_digest
from moma_core.teacher.query import Pixels
from tests.support.federation.pki import Pki
from tests.support.machine.tls_port import tls_port
from tests.support.site import broken_sites as broken
from tests.support.site.broken_sites import FEDERATION, LICENCE
from tests.support.site.cached_site import CachedSite, Quarters, teaching
from tests.support.site.reference_patch_site import GOLDEN_CARD
from tests.support.site.tiny_site import local_config
from tests.support.teacher.reference_patch_teacher import write_golden_teacher

DIGEST = terms_digest("teacher-a", LICENCE)
CHECKS = (
    *("config", "keys", "certificate", "clock", "data", "classes", "steps"),
    *("pictures", "device", "teacher", "terms", "budget", "reference patch"),
    *("scenario", "coordinator", "disk", "student"),
)


@contextmanager
def _tls(pki: Pki, credential: Credential, folder: Path) -> Iterator[int]:
    """Serves nothing but handshakes, and yields its port."""
    files = pki.write(folder, credential)
    with tls_port(files.certificate, files.key) as port:
        yield port


@pytest.fixture(scope="module")
def coordinator(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    own = pki.server("coordinator", "coordinator")
    with _tls(pki, own, tmp_path_factory.mktemp("coordinator")) as port:
        yield port


@pytest.fixture
def place(tmp_path: Path, pki: Pki, coordinator: int) -> Path:
    """The config of a site to which nothing is wanting."""
    write_golden_teacher(tmp_path / "teacher", licence=LICENCE)
    files = pki.write(tmp_path / "keys", pki.site("site-a"))
    identity = {
        "certificate": str(files.certificate),
        "key": str(files.key),
        "authority": str(files.ca),
        "node_key": str(files.key),
        "signing_key": str(tmp_path / "signing.key"),
    }
    write_private(tmp_path / "signing.key", SigningKey.create().to_pem())
    local_config(
        tmp_path,
        federation=FEDERATION,
        identity=identity,
        teacher={"accepted_terms": DIGEST},
        coordinator={"address": f"localhost:{coordinator}", "enrolment": None},
    )
    return tmp_path / "config.yaml"


def _look(path: Path, *, ask: bool = False, late_days: float = 0) -> list[Finding]:
    now = datetime.now(UTC) + timedelta(days=late_days)
    return list(examine(path, ask=ask, now=now))


def test_a_site_in_order_has_no_problem_and_each_check_says_so(place: Path) -> None:
    findings = _look(place)

    assert exit_error(findings) is None
    assert tuple(dict.fromkeys(finding.check for finding in findings)) == CHECKS
    states = {finding.check: finding.state for finding in findings}
    assert states == dict.fromkeys(CHECKS, "ok") | {
        "data": "warning",  # it names no patient
        "classes": "warning",  # 24 labels of four classes
    }


@pytest.mark.parametrize(
    ("rounds", "epochs", "said"),
    [
        (3, 1, "coordinator.max_rounds_per_run is 2, this task asks 3"),
        (2, 4, "coordinator.max_epochs_per_round is 3, this task asks 4"),
        (2, 3, None),
        (3, None, None),  # a coordinator of an earlier release
    ],
)
def test_a_plan_that_the_site_refuses_is_a_problem_before_its_first_round(
    tmp_path: Path, rounds: int, epochs: int | None, said: str | None
) -> None:
    limits = {"max_rounds_per_run": 2, "max_epochs_per_round": 3}
    config = local_config(tmp_path, coordinator=limits)
    state = RunState(run="run-1", phase="gathering", rounds=rounds, local_epochs=epochs)

    found = [f"{each.state}: {each.text}" for each in look_at_plan(config, state)]

    assert len(found) == (said is not None)
    assert all(line.startswith("problem: ") and str(said) in line for line in found)


def test_the_state_dir_of_another_site_is_a_problem(place: Path) -> None:
    state = SiteConfig.from_yaml(place).state_dir
    state.mkdir(parents=True, exist_ok=True)
    take_folder(state, PeerName(FEDERATION, "site", "site-b"))

    (found,) = [each for each in _look(place) if each.check == "disk"]

    assert found.state == "problem"
    assert "/site/site-b, the config of" in found.text


def test_keys_under_a_passphrase_are_in_order_with_it_and_not_without(
    place: Path, tmp_path: Path
) -> None:
    key, secret = tmp_path / "keys" / "key.pem", tmp_path / "passphrase"
    write_private(secret, b"four words of nonsense\n")
    write_private(key, sealed_key(key.read_bytes(), read_passphrase(secret)))

    (without,) = (f for f in _look(place) if f.state == "problem")
    broken.change(place, "identity", passphrase_file=str(secret))

    assert (without.check, "name its passphrase" in without.text) == ("certificate", 1)
    assert exit_error(_look(place)) is None


@pytest.mark.parametrize(
    ("breaks", "check", "said", "error"),
    [
        (broken.no_section, "config", "is not valid", ConfigError),
        (broken.open_key, "keys", "chmod 600", ConfigError),
        (broken.no_node_key, "keys", "identity.node_key cannot be read", ConfigError),
        (broken.no_certificate, "certificate", "the coordinator gives it", ConfigError),
        (broken.other_name, "certificate", "the config of", ConfigError),
        (broken.other_authority, "certificate", "", ConfigError),
        (broken.other_key, "certificate", "does not belong to the key", ConfigError),
        (broken.no_data, "data", "cannot read the manifest", ConfigError),
        (broken.wants_gpu, "device", "sees no GPU", ConfigError),
        (broken.no_teacher, "teacher", "cannot read the teacher card", ConfigError),
        (broken.other_weights, "teacher", "has digest", ConfigError),
        (
            broken.other_golden,
            "reference patch",
            "reference patch, embedding: differs by",
            RefusedError,
        ),
        (broken.not_accepted, "terms", "are not accepted", RefusedError),
        (broken.new_terms, "terms", "they changed", RefusedError),
        (broken.forbidden_students, "derived models", "a student is one", RefusedError),
        (broken.no_coordinator, "coordinator", "cannot reach localhost:1", ConfigError),
    ],
)
def test_what_is_broken_is_found_and_says_what_to_do(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    breaks: Callable[[Path], None],
    check: str,
    said: str,
    error: type[Exception],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    breaks(place)

    findings = _look(place)

    problems = {f.check: f.text for f in findings if f.state == "problem"}
    assert said in problems[check]
    assert isinstance(exit_error(findings), error)


@pytest.mark.parametrize(
    ("days", "check", "state", "said"),
    [
        (25, "certificate", "warning", "renew it"),
        (31, "certificate", "problem", "it expired"),
        (-2, "clock", "problem", "set the clock"),
    ],
)
def test_the_certificate_is_held_against_the_clock(
    place: Path, days: float, check: str, state: str, said: str
) -> None:
    findings = _look(place, late_days=days)

    assert any(
        (f.check, f.state) == (check, state) and said in f.text for f in findings
    )


def test_who_stands_in_the_coordinators_place_is_named(
    place: Path, pki: Pki, tmp_path: Path
) -> None:
    with _tls(pki, pki.server(), tmp_path / "teacher-keys") as port:
        broken.change(place, "coordinator", address=f"localhost:{port}")
        findings = _look(place)

    (finding,) = (f for f in findings if f.check == "coordinator")
    assert "is the teacher teacher-a and no coordinator" in finding.text


def test_another_federations_coordinator_is_not_acceptable(
    place: Path, tmp_path: Path
) -> None:
    other = Pki(FEDERATION)
    own = other.server("coordinator", "coordinator")
    with _tls(other, own, tmp_path / "other-keys") as port:
        broken.change(place, "coordinator", address=f"localhost:{port}")
        findings = _look(place)

    (finding,) = (f for f in findings if f.check == "coordinator")
    assert "is not acceptable" in finding.text


@pytest.mark.parametrize("ask", [False, True])
def test_a_remote_teacher_is_asked_for_its_card_alone(
    tmp_path: Path, pki: Pki, ask: bool
) -> None:
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        site.write_config()
        findings = _look(site.path, ask=ask)
        charged = served.budget.charged("site-a")

    (teacher,) = (f for f in findings if f.check == "teacher")
    assert teacher.state == "ok"
    assert "mean colour" in teacher.text
    assert charged == 0  # its card has no reference patch


def test_an_absent_teacher_is_a_problem(tmp_path: Path, pki: Pki) -> None:
    site = CachedSite(tmp_path / "site", pki, 1)
    site.write_config()

    findings = _look(site.path)

    (teacher,) = (f for f in findings if f.check == "teacher")
    assert (teacher.state, teacher.refused) == ("problem", False)
    assert not [f for f in findings if f.check in ("terms", "reference patch")]


@pytest.mark.parametrize(
    ("breaks", "status"),
    [(None, 0), (broken.no_coordinator, 1), (broken.not_accepted, 3)],
)
def test_the_program_ends_as_the_findings_stand(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    breaks: Callable[[Path], None] | None,
    status: int,
) -> None:
    if breaks is not None:
        breaks(place)

    found = main(["doctor", "--json", "--site", str(place)])

    assert found == status
    findings = json.loads(capsys.readouterr().out)["findings"]
    (terms,) = (f for f in findings if f["check"] == "terms")
    assert terms["terms"] == DIGEST
    assert terms["accepted"] == (breaks is not broken.not_accepted)


def test_a_person_reads_the_terms_and_the_line_that_accepts_them(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken.not_accepted(place)

    main(["doctor", "--site", str(place)])

    printed = capsys.readouterr().out
    assert f"accepted_terms: {DIGEST}" in printed
    assert "for research alone" in printed
    assert isinstance(SiteConfig.from_yaml(place), SiteConfig)


class Broken(Quarters):
    """A teacher whose model is away."""

    looks = 0

    def predict(self, pixels: Pixels) -> NoReturn:
        self.looks += 1
        raise TeacherUnavailableError("the model is away")


def test_a_person_who_asks_a_broken_teacher_does_not_wait_for_all_retries(
    tmp_path: Path, pki: Pki
) -> None:
    broken_teacher = Broken(GOLDEN_CARD)
    with teaching(tmp_path / "teacher", pki, backend=broken_teacher) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        site.write_config()
        found = _look(site.path, ask=True)

    (said,) = (each for each in found if each.check == "reference patch")
    assert said.state == "problem"
    assert broken_teacher.looks == 3
