"""What the doctor finds before a run does: budget, approval, students, pictures."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from moma_client.reports.doctor.run import examine, exit_error
from moma_core.end_to_end import pinned_sites
from moma_core.errors import RefusedError
from moma_core.pki import revocations
from moma_core.pki.identity import read_peer
from moma_core.runtime.finding import Finding
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import CachedSite, teaching, write_pictures
from tests.support.teacher.teacher_server import Served


@pytest.fixture
def served(tmp_path: Path, pki: Pki) -> Iterator[Served]:
    with teaching(tmp_path / "teacher", pki) as running:
        yield running


def _site(tmp_path: Path, pki: Pki, served: Served, **sections: Any) -> CachedSite:
    site = CachedSite(tmp_path / "site", pki, served.port, **sections)
    site.write_config()
    return site


def _look(site: CachedSite, check: str, *, all_pictures: bool = False) -> list[Finding]:
    now = datetime.now(UTC)
    found = examine(site.path, ask=False, now=now, all_pictures=all_pictures)
    return [finding for finding in found if finding.check == check]


@pytest.mark.parametrize(
    ("grant", "views", "state", "said"),
    [
        (10_000, 4, "ok", "uses 432 of 10000 patches that are left"),
        (300, 4, "warning", "budget.sites.site-a: 432; until then a run trains on"),
        (10_000, 0, "ok", "an epoch asks 172 patches, the 100 steps that a student"),
        (10_000, 0, "ok", "(10 epochs) 1720, more if the coordinator plans more"),
        (1000, 0, "warning", "budget.sites.site-a: 1720; or have its outputs kept"),
        (100, 0, "problem", "ask the owner of teacher teacher-a for budget.sites.site"),
        (0, 4, "problem", "0 of 0 are left"),
    ],
)
def test_the_budget_is_held_against_what_a_run_asks(
    tmp_path: Path, pki: Pki, grant: int, views: int, state: str, said: str
) -> None:
    with teaching(tmp_path / "teacher", pki, grant=grant) as served:
        site = _site(tmp_path, pki, served, teacher={"views": views})
        (budget,) = _look(site, "budget")
        charged = served.budget.charged("site-a")

    assert (budget.state, charged) == (state, 0)
    assert said in budget.text
    assert isinstance(exit_error([budget]), RefusedError) == (state == "problem")


def test_a_site_that_is_not_approved_is_told_what_to_tell_the_owner(
    tmp_path: Path, pki: Pki, served: Served
) -> None:
    site = _site(tmp_path, pki, served)
    pinned_sites.forget(served.folder / "approved.json", "site-a")

    (budget,) = _look(site, "budget")

    assert (budget.state, budget.refused) == ("problem", True)
    assert "the fingerprint that `moma-client key` prints" in budget.text


def test_a_revoked_site_is_told_how_it_comes_back(
    tmp_path: Path, pki: Pki, served: Served
) -> None:
    site = _site(tmp_path, pki, served)
    peer = read_peer(site.config.identity.certificate.read_bytes())
    revocations.revoke(
        served.folder / "revoked.json",
        serial=peer.serial,
        name=peer.name,
        now=datetime.now(UTC),
    )

    (teacher,) = _look(site, "teacher")

    assert (teacher.state, teacher.refused) == ("problem", True)
    assert "a new token of the coordinator" in teacher.text


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({"weights_file": "none.safetensors"}, "cannot read weights"),
        ({"weights": "packaged"}, "architecture: tf_efficientnet_lite0"),
        ({"architecture": "vit_tiny_patch16_224"}, "takes no views of 32 px"),
    ],
)
def test_a_student_that_cannot_be_made_is_a_problem(
    tmp_path: Path, pki: Pki, served: Served, student: dict[str, Any], said: str
) -> None:
    site = _site(tmp_path, pki, served, student=student)

    (found,) = _look(site, "student")

    assert found.state == "problem"
    assert said in found.text


def test_a_view_size_that_is_not_the_teachers_is_a_warning_with_the_right_one(
    tmp_path: Path, pki: Pki, served: Served
) -> None:
    site = _site(tmp_path, pki, served, view_size_px=64)

    (note,) = _look(site, "view size")

    assert note.state == "warning"
    assert "view_size_px: 32 shows both the same pixels" in note.text


@pytest.mark.parametrize(("tolerated", "state"), [(10, "warning"), (0, "problem")])
def test_a_picture_of_garbage_is_named_and_counted_against_what_is_tolerated(
    tmp_path: Path, pki: Pki, served: Served, tolerated: int, state: str
) -> None:
    manifest, picture = write_pictures(tmp_path / "patches")
    picture.write_bytes(b"no picture")
    data = {
        "kind": "csv_manifest",
        "path": str(manifest),
        "max_unreadable": tolerated,
    }
    site = _site(tmp_path, pki, served, data=data)

    (found,) = _look(site, "pictures")

    assert found.state == state
    (named,) = found.more
    assert named.endswith(f"{picture.name}: a file is no image of a known format")
    assert "75 of 75 opened" in found.text


def test_a_sample_is_opened_unless_all_are_wanted(
    tmp_path: Path, pki: Pki, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, picture = write_pictures(tmp_path / "patches")
    lines = manifest.read_text().splitlines()
    lines[2] = "none.png," + lines[2].partition(",")[2]
    manifest.write_text("\n".join(lines))
    monkeypatch.setattr("moma_client.reports.doctor.run.SAMPLE", 2)
    data = {"kind": "csv_manifest", "path": str(manifest)}
    site = _site(tmp_path, pki, served, data=data, view_size_px=64)

    sample, stretched = _look(site, "pictures")
    whole, _ = _look(site, "pictures", all_pictures=True)

    opened, _, _ = sample.text.partition(" of 75 opened; --all")
    assert (sample.state, int(opened) < 75) == ("ok", True)
    assert "set view_size_px: 32" in stretched.text
    (named,) = whole.more
    assert named.endswith("none.png: there is no such file")
    assert picture.exists()
