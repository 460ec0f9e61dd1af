"""`moma-client egress` as an officer uses it, with a real teacher behind it."""

import json
from pathlib import Path

import pytest
import yaml

from moma_client.cli.main import main
from moma_client.egress.disclosed import (
    DisclosedCohort,
    DisclosureFile,
    DisclosureState,
    disclosure_path,
)
from moma_client.egress.log import EgressLog, log_path
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import CachedSite, teaching
from tests.support.site.egress_site import EgressSite
from tests.support.site.tiny_site import local_config, write_teacher


def _out(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_a_preview_says_who_is_counted_and_what_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["validation_accuracy", "unseen_accuracy", "validation_recall_rare"]
    EgressSite(tmp_path, egress={"metrics": keys})
    path = tmp_path / "config.yaml"

    status = main(["egress", "--preview", "--site", str(path)])
    text = _out(capsys)
    main(["egress", "--preview", "--json", "--site", str(path)])
    found = json.loads(_out(capsys))

    assert status == 0
    assert "validation_accuracy  0 to 1, 3 decimals, on 12 patients: leaves" in text
    assert "unseen_accuracy  0 to 1, 3 decimals, on 3 patients: stays here" in text
    assert [figure["rule"] for figure in found["figures"]] == [
        None,
        "patients",
        "class_patients",
    ]
    assert found["patches_told"] == 50
    assert not found["weights_to_coordinator"]
    assert "the student's weights: stay here" in text
    assert "nothing: it lies on this disk" in text
    assert len(found["never"]) == 5


def test_the_embedded_set_is_told_of_and_says_that_patches_were_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_teacher(tmp_path / "teacher")
    local_config(tmp_path)

    main(["egress", "--preview", "--json", "--site", str(tmp_path / "config.yaml")])
    found = json.loads(_out(capsys))

    assert {figure["rule"] for figure in found["figures"]} == {None}
    assert (
        "patches that name no patient and no slide, each as one"
        in (found["figures"][0]["counted"])
    )


def test_own_patches_that_name_nobody_are_one_patient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = EgressSite(tmp_path)
    manifest = site.patches / "manifest.csv"
    rows = [line.split(",") for line in manifest.read_text().splitlines()]
    manifest.write_text("\n".join(f"{r[0]},{r[1]},{r[4]}" for r in rows))

    main(["egress", "--preview", "--json", "--site", str(tmp_path / "config.yaml")])
    found = json.loads(_out(capsys))

    assert {figure["rule"] for figure in found["figures"]} == {"patients"}
    assert found["figures"][0]["counted"] == (
        "all patches that name no patient and no slide, as one"
    )


def test_a_preview_of_a_remote_teacher_asks_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = CachedSite(tmp_path, Pki(), 9, teacher={"encoding": "png"})
    site.write_config()

    status = main(["egress", "--preview", "--json", "--site", str(site.path)])
    found = json.loads(_out(capsys))

    assert status == 0
    assert found["encoding"] == "png"
    assert found["plan"]["queries"] > 0
    assert found["plan"]["away"] == "not asked"


def test_the_log_is_shown_as_lines_and_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = local_config(tmp_path)
    log = EgressLog(log_path(config.state_dir))
    log.add("teacher", "sent", "patches", patches=3, bytes=100)
    log.add("coordinator", "blocked", "unseen_ece", rule="patients")
    path = str(tmp_path / "config.yaml")

    main(["egress", "--log", "--site", path])
    lines = _out(capsys).splitlines()
    main(["egress", "--log", "--json", "--site", path])
    entries = [json.loads(line) for line in _out(capsys).splitlines()]

    assert lines[0].endswith("teacher  sent  patches  patches 3, bytes 100")
    assert lines[1].endswith("coordinator  blocked  unseen_ece  rule patients")
    assert [entry["item"] for entry in entries] == ["patches", "unseen_ece"]


def test_an_empty_log_says_so_and_is_no_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local_config(tmp_path)
    path = str(tmp_path / "config.yaml")

    main(["egress", "--log", "--site", path])
    told = _out(capsys)
    main(["egress", "--log", "--json", "--site", path])

    assert told == "nothing left this site yet, and nothing was suppressed\n"
    assert _out(capsys) == ""


def test_an_operator_lets_other_people_be_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = local_config(tmp_path)
    cohort = DisclosedCohort(digest="a" * 64, counted="12 patients", values={})
    file = DisclosureFile(disclosure_path(config.state_dir))
    file.write(DisclosureState(cohorts={"validation": cohort}))

    main(["egress", "--forget-cohorts", "--site", str(tmp_path / "config.yaml")])

    assert "figures on validation may tell of other patients" in _out(capsys)
    assert file.read() == DisclosureState()


def test_a_report_on_a_lossy_encoding_says_what_it_charges_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pki = Pki()
    with teaching(tmp_path / "server", pki) as served:
        site = CachedSite(
            tmp_path / "site", pki, served.port, teacher={"encoding": "jpeg:30"}
        )
        site.write_config()
        command = ["egress", "--encoding-report", "--site", str(site.path)]
        status = main([*command, "--patches", "20"])
        lines = _out(capsys).splitlines()
        main([*command, "--patches", "20", "--json"])
        found = json.loads(_out(capsys))
        charged = served.budget.charged("site-a")

    assert status == 0
    assert lines[0] == "querying the teacher: at most 40 patches are charged"
    assert lines[1].startswith("jpeg:30: on 20 patches the embeddings' cosine")
    assert 0.9 < found["lowest_cosine"] <= found["mean_cosine"] < 1
    assert charged == 40  # the second time repeats the first


@pytest.mark.parametrize("encoding", ["raw", "png", "webp"])
def test_an_encoding_that_loses_nothing_charges_nothing(
    tmp_path: Path, encoding: str
) -> None:
    site = CachedSite(tmp_path, Pki(), 9, teacher={"encoding": encoding})
    site.write_config()

    status = main(["egress", "--encoding-report", "--site", str(site.path)])

    assert status == 1


@pytest.mark.parametrize("encoding", ["raw", "png", "webp", "jpeg:95"])
def test_a_cache_is_filled_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    pki = Pki()
    with teaching(tmp_path / "server", pki) as served:
        site = CachedSite(
            tmp_path / "site", pki, served.port, teacher={"encoding": encoding}
        )
        site.fill()
        charged = served.budget.charged("site-a")
        site.fill()

        assert served.budget.charged("site-a") == charged > 0


def test_a_lossy_encoding_has_a_cache_of_its_own(tmp_path: Path) -> None:
    pki = Pki()
    with teaching(tmp_path / "server", pki) as served:
        for encoding in ("raw", "png", "jpeg:95", "jpeg:50"):
            site = CachedSite(
                tmp_path / "site", pki, served.port, teacher={"encoding": encoding}
            )
            site.fill()
        caches = list(site.config.state_dir.glob("teacher-cache/*/*.cache"))

    assert len(caches) == 3  # a lossless one is as good as the array


def test_the_configs_encoding_is_checked(tmp_path: Path) -> None:
    values = CachedSite(tmp_path, Pki(), 9).values
    values["teacher"]["encoding"] = "gif"
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))

    assert main(["--site", str(path), "--check"]) == 1
