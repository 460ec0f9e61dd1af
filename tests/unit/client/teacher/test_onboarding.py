"""What stops a site before it trains: terms, sizes, digest, the reference patch."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from moma_client.cli.main import main
from moma_client.config.teacher import LocalTeacherSection
from moma_client.context import RunContext
from moma_client.metrics import silent_metrics
from moma_client.teacher.connect import check_same
from moma_client.teacher.onboarding import onboard, verify_local
from moma_core.end_to_end.signatures import TEACHER_CARD, SigningKey, sign_file
from moma_core.errors import (
    BudgetSpentError,
    CertificateError,
    ConfigError,
    MismatchError,
    TermsError,
)
from moma_core.models.weights import file_digest
from moma_core.teacher.card.licence import Licence, terms_digest
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import CARD, CachedSite, teaching
from tests.support.site.reference_patch_site import GOLDEN_CARD, OtherQuarters, vet
from tests.support.site.tiny_site import local_config
from tests.support.teacher.reference_patch_teacher import write_golden_teacher
from tests.support.teacher.teacher_server import Served

LICENCE = Licence("CC-BY-NC-4.0", "see the repository", "for research alone")
ACCEPTED = terms_digest("teacher-a", LICENCE)


@pytest.fixture
def served(tmp_path: Path, pki: Pki) -> Iterator[Served]:
    with teaching(tmp_path / "teacher", pki) as running:
        yield running


def _local(folder: Path, **teacher: Any) -> LocalTeacherSection:
    section = local_config(folder, teacher=teacher).teacher
    assert isinstance(section, LocalTeacherSection)
    return section


def _sent(site: CachedSite) -> float:
    name = "moma_client_egress_bytes_total"
    return site.registry.get_sample_value(name, {"channel": "teacher"}) or 0


# ------------------------------------------------------------------ reference patch


def test_a_teacher_on_the_disk_that_says_what_its_card_says_is_met(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = write_golden_teacher(tmp_path / "teacher")
    config = local_config(tmp_path)

    with caplog.at_level(logging.INFO):
        met, _, _ = onboard(RunContext(config, threading.Event(), silent_metrics()))

    assert met == card
    assert "answers its reference patch as expected" in caplog.text


def test_other_weights_under_the_cards_digest_are_refused(tmp_path: Path) -> None:
    card = write_golden_teacher(tmp_path / "teacher", seed=0)
    write_golden_teacher(tmp_path / "other", seed=1)
    weights = (tmp_path / "other" / "weights.safetensors").read_bytes()
    own = tmp_path / "teacher" / "weights.safetensors"
    own.write_bytes(weights)
    replace(card, digest=file_digest(own)).save(tmp_path / "teacher" / "card.json")

    with pytest.raises(
        MismatchError, match=r"reference patch, embedding: differs by .*tolera"
    ):
        verify_local(_local(tmp_path))


def test_weights_with_another_digest_are_refused(tmp_path: Path) -> None:
    card = write_golden_teacher(tmp_path / "teacher")
    replace(card, digest="1" * 64).save(tmp_path / "teacher" / "card.json")

    with pytest.raises(ConfigError, match="has digest"):
        verify_local(_local(tmp_path))


def test_another_embedding_length_is_named(tmp_path: Path) -> None:
    card = write_golden_teacher(tmp_path / "teacher")
    path = tmp_path / "teacher" / "card.json"
    replace(card, embedding_length=7, golden=None).save(path)

    with pytest.raises(MismatchError, match="embedding_length: test_efficientnet has"):
        verify_local(_local(tmp_path))


def test_another_class_count_does_not_load(tmp_path: Path) -> None:
    card = write_golden_teacher(tmp_path / "teacher")
    path = tmp_path / "teacher" / "card.json"
    replace(card, class_names=("a", "b"), golden=None).save(path)

    with pytest.raises(ConfigError, match="do not fit"):
        verify_local(_local(tmp_path))


def test_the_golden_patch_is_charged_once_over_several_starts(
    tmp_path: Path, pki: Pki, served: Served
) -> None:
    site = CachedSite(tmp_path / "site", pki, served.port)

    vet(site, GOLDEN_CARD)
    first = served.budget.charged("site-a")
    vet(site, GOLDEN_CARD)

    assert first == served.budget.charged("site-a") == 1
    key = site.config.state_dir / "reference-patch" / "teacher-a.key"
    assert key.stat().st_mode & 0o777 == 0o600


def test_a_key_of_the_time_before_teachers_had_their_own_is_taken_over(
    tmp_path: Path, pki: Pki, served: Served
) -> None:
    site = CachedSite(tmp_path / "site", pki, served.port)
    vet(site, GOLDEN_CARD)
    key = site.config.state_dir / "reference-patch" / "teacher-a.key"
    key.rename(site.config.state_dir / "golden.key")

    vet(site, GOLDEN_CARD)

    assert served.budget.charged("site-a") == 1


def test_it_is_charged_again_once_the_teacher_no_longer_repeats_it(
    tmp_path: Path, pki: Pki
) -> None:
    days = [0]

    def clock() -> datetime:
        return datetime.now(UTC) + timedelta(days=days[0])

    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        served.budget._clock = clock
        vet(site, GOLDEN_CARD)
        days[0] = 20
        vet(site, GOLDEN_CARD)

        assert served.budget.charged("site-a") == 2


def test_a_remote_teacher_with_other_weights_is_refused(
    tmp_path: Path, pki: Pki
) -> None:
    backend = OtherQuarters()
    with teaching(tmp_path / "teacher", pki, backend=backend) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)

        with pytest.raises(
            MismatchError, match="reference patch, embedding: differs by"
        ):
            vet(site, GOLDEN_CARD)

    assert backend.patches == 1


def test_a_teacher_whose_budget_is_spent_has_not_passed(
    tmp_path: Path, pki: Pki
) -> None:
    with teaching(tmp_path / "teacher", pki, grant=0) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)

        with pytest.raises(BudgetSpentError, match="the teacher says: the budget is"):
            vet(site, GOLDEN_CARD)


# ------------------------------------------------------------------------- terms


def test_without_acceptance_no_patch_is_sent(
    tmp_path: Path, pki: Pki, served: Served
) -> None:
    site = CachedSite(tmp_path / "site", pki, served.port)
    card = replace(GOLDEN_CARD, licence=LICENCE)

    with pytest.raises(TermsError, match="not accepted; nothing was sent") as refused:
        vet(site, card)

    assert f"accepted_terms: {ACCEPTED}" in str(refused.value)
    assert "for research alone" in str(refused.value)
    assert _sent(site) == served.budget.charged("site-a") == 0


def test_terms_that_changed_need_a_new_acceptance(
    tmp_path: Path, pki: Pki, served: Served
) -> None:
    accepted = {"accepted_terms": ACCEPTED}
    site = CachedSite(tmp_path / "site", pki, served.port, teacher=accepted)
    changed = replace(LICENCE, derived_models="for nothing")

    with pytest.raises(TermsError, match="not those that were accepted"):
        vet(site, replace(GOLDEN_CARD, licence=changed))

    assert _sent(site) == served.budget.charged("site-a") == 0


def test_a_licence_that_forbids_derived_models_needs_the_sites_own_word(
    tmp_path: Path, pki: Pki, served: Served
) -> None:
    forbids = replace(LICENCE, forbids_derived_models=True)
    card = replace(GOLDEN_CARD, licence=forbids)
    accepted = {"accepted_terms": terms_digest("teacher-a", forbids)}
    site = CachedSite(tmp_path / "site", pki, served.port, teacher=accepted)

    with pytest.raises(TermsError, match="forbids derived models") as refused:
        vet(site, card)

    assert str(refused.value).endswith("nothing was sent")
    assert _sent(site) == served.budget.charged("site-a") == 0


def test_with_its_owners_permission_such_a_teacher_is_met(tmp_path: Path) -> None:
    forbids = replace(LICENCE, forbids_derived_models=True)
    card = write_golden_teacher(tmp_path / "teacher", licence=forbids)
    accepted = terms_digest("teacher-a", forbids)

    section = _local(tmp_path, accepted_terms=accepted, derived_models_permitted=True)

    assert verify_local(section) == card


def test_both_lines_are_told_where_neither_is_there(
    tmp_path: Path, pki: Pki, served: Served
) -> None:
    site = CachedSite(tmp_path / "site", pki, served.port)
    licence = replace(LICENCE, forbids_derived_models=True)

    with pytest.raises(TermsError, match="FORBIDDEN without a permission") as refused:
        vet(site, replace(GOLDEN_CARD, licence=licence))

    assert f"accepted_terms: {terms_digest('teacher-a', licence)}" in str(refused.value)
    assert "derived_models_permitted: true" in str(refused.value)


def test_terms_that_change_within_a_run_stop_it() -> None:
    known = replace(CARD, licence=LICENCE)

    with pytest.raises(TermsError, match="changed its terms within the run"):
        check_same(replace(known, licence=replace(LICENCE, may_sell=True)), known)


def test_the_program_shows_the_terms_and_ends_as_refused(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    write_golden_teacher(tmp_path / "teacher", licence=LICENCE)
    files = pki.write(tmp_path / "keys", pki.site("site-a"))
    identity = {"certificate": str(files.certificate), "key": str(files.key)}
    config = local_config(
        tmp_path, identity=identity, federation="test-federation", metrics={"port": 0}
    )

    status = main(["--site", str(tmp_path / "config.yaml")])

    assert status == 3
    assert "CC-BY-NC-4.0" in caplog.text
    assert f"accepted_terms: {ACCEPTED}" in caplog.text
    assert not (config.state_dir / "runs").exists()


def test_accepted_terms_let_the_teacher_be_met(tmp_path: Path) -> None:
    card = write_golden_teacher(tmp_path / "teacher", licence=LICENCE)

    assert verify_local(_local(tmp_path, accepted_terms=ACCEPTED)) == card


# --------------------------------------------------------------------- signature


def test_a_card_that_the_pinned_key_signed_is_taken(tmp_path: Path) -> None:
    card = write_golden_teacher(tmp_path / "teacher")
    key = SigningKey.create()
    sign_file(tmp_path / "teacher" / "card.json", key, TEACHER_CARD)

    assert verify_local(_local(tmp_path, key=str(key.public))) == card


def test_a_card_that_was_changed_after_it_was_signed_is_refused(
    tmp_path: Path,
) -> None:
    card = write_golden_teacher(tmp_path / "teacher")
    key, path = SigningKey.create(), tmp_path / "teacher" / "card.json"
    sign_file(path, key, TEACHER_CARD)
    replace(card, organ="breast").save(path)

    with pytest.raises(CertificateError, match="signature of the exported teacher"):
        verify_local(_local(tmp_path, key=str(key.public)))


def test_a_card_without_a_signature_is_refused_where_a_key_is_pinned(
    tmp_path: Path,
) -> None:
    write_golden_teacher(tmp_path / "teacher")

    with pytest.raises(CertificateError, match="holds no signature"):
        verify_local(_local(tmp_path, key=str(SigningKey.create().public)))
