"""What a run would ask, held against what it asks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moma_client.cache.folder import CacheFolder, MeasuredRate
from moma_client.cli.main import main
from moma_client.config.site import SiteConfig
from moma_client.reports.plan import plan_queries
from moma_client.reports.plan_text import plan_lines
from moma_client.reports.query_plan import QueryPlan
from moma_core.config import validated
from moma_core.end_to_end.sealed_messages import SEALING_BYTES
from moma_core.errors import (
    TeacherUnavailableError,
    UnsignedRefusalError,
)
from moma_core.teacher.card.licence import Licence
from tests.support.federation.pki import Pki
from tests.support.site.cached_site import (
    CARD,
    LABELLED,
    PATCHES,
    ROUND,
    UNLABELLED,
    VIEWS,
    WHOLE,
    CachedSite,
    Quarters,
    teaching,
)
from tests.support.site.reference_patch_site import GOLDEN_CARD
from tests.support.site.tiny_site import local_config, write_teacher

DRAWN = 10 * 16 + 12  # rows of the steps of an epoch
CLOSED_PORT = 1


def _plan(site: CachedSite, epochs: int | None = None) -> QueryPlan:
    return plan_queries(site.config, epochs=epochs, patches_per_second=None)


OTHER_CALLS = 4 * SEALING_BYTES  # about the budget, and the like


def _sent(site: CachedSite) -> float:
    name = "moma_client_egress_bytes_total"
    return site.registry.get_sample_value(name, {"channel": "teacher"}) or 0


def test_a_plan_is_what_filling_the_cache_then_asks(tmp_path: Path, pki: Pki) -> None:
    with teaching(tmp_path / "teacher", pki, grant=1000) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        before = _plan(site)
        charged = served.budget.charged("site-a")
        site.fill(WHOLE)
        after = _plan(site)

    assert charged == 0
    assert (before.labelled, before.unlabelled) == (LABELLED, UNLABELLED)
    assert (before.answers, before.in_bank) == (VIEWS * PATCHES, 0)
    assert before.queries == VIEWS * PATCHES == site.patches("teacher")
    assert before.requests == VIEWS * 7  # of sixteen patches at most
    assert before.sent_bytes is not None
    assert before.sent_bytes == pytest.approx(_sent(site), abs=OTHER_CALLS)
    assert (before.granted, before.left) == (1000, 1000)
    assert before.share_of_left == pytest.approx(0.432)
    assert before.expected_seconds is None
    assert (after.queries, after.in_bank, after.left) == (0, 432, 568)
    assert after.sent_bytes == after.received_bytes == after.requests == 0
    assert after.rate_is_measured
    (cache,) = site.config.state_dir.glob("teacher-cache/*/*.cache")
    assert after.disk_bytes == 4096 + 432 * (32 + 2 * 16 + 16)
    assert cache.stat().st_size > after.disk_bytes  # with holes for other splits


def test_what_an_earlier_release_kept_is_taken_over(
    tmp_path: Path, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        site.fill_all()
        (cache,) = site.config.state_dir.glob("teacher-cache/*/*.cache")
        folder = site.config.state_dir / "teacher-cache"
        cache.parent.rename(folder.with_name("view-bank"))
        former_cache = folder.with_name("view-bank") / cache.name
        former_cache.rename(former_cache.with_suffix(".bank"))
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        former = site.values["teacher"] | {"bank_precision": "float16"}
        config = validated(SiteConfig, site.values | {"teacher": former}, site.path)
        plan = plan_queries(config, epochs=None, patches_per_second=None)

    assert plan.queries == 0
    assert "bank_precision is called cache_precision now" in caplog.text


def test_a_cache_of_the_time_before_teachers_had_folders_is_taken_over(
    tmp_path: Path, pki: Pki
) -> None:
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        site.fill_all()
        folder = CacheFolder(site.config)
        folder.keep_card(CARD)
        for path in sorted(folder.path.iterdir()):
            path.rename(folder.path.parent / path.name)
        key = (folder.path.parent / "request.key").read_bytes()
        renamed = {"teacher": site.values["teacher"] | {"name": "teacher-b"}}
        other = validated(SiteConfig, site.values | renamed, site.path)
        CacheFolder(other)  # another teacher's folder takes nothing of the first
        planned = _plan(site)

    assert planned.queries == 0
    assert CacheFolder(site.config).request_key() == key
    assert CacheFolder(site.config).kept_card() == CARD
    assert not list(CacheFolder(other).path.glob("*"))
    assert not list(folder.path.parent.glob("*.[ajkr]*"))


def test_a_plan_of_few_epochs_asks_no_view_that_they_do_not_show(
    tmp_path: Path, pki: Pki
) -> None:
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        planned = _plan(site, epochs=1)
        site.fill()

    assert planned.queries == site.patches("teacher") == 4 * LABELLED + UNLABELLED


def test_an_online_plan_counts_every_draw_of_every_epoch(
    tmp_path: Path, pki: Pki
) -> None:
    with teaching(tmp_path / "teacher", pki) as served:
        site = CachedSite(tmp_path / "site", pki, served.port, teacher={"views": 0})
        one, three = _plan(site), _plan(site, epochs=3)
        site.train(task=replace(ROUND, local_epochs=3))

    assert (one.mode, one.epochs, one.queries) == ("online", 1, DRAWN)
    assert three.queries == 3 * DRAWN == site.patches("teacher")
    assert three.sent_bytes is not None
    assert three.sent_bytes == pytest.approx(_sent(site), abs=OTHER_CALLS)
    assert three.disk_bytes is None


def test_a_plan_without_its_teacher_says_so_and_what_the_cache_knows(
    tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(_: object, failure: Exception) -> None:
        raise TeacherUnavailableError(str(failure))

    monkeypatch.setattr("moma_client.teacher.retry.Retries._pause_after", give_up)
    site = CachedSite(tmp_path / "site", pki, CLOSED_PORT)

    plan = _plan(site)
    lines = "\n".join(plan_lines(plan))

    assert "teacher      teacher-a is away: cannot reach localhost:1" in lines
    assert "to ask       432 patches" in lines
    assert "an unknown number of bytes sent" in lines
    assert "budget       not known while the teacher is away" in lines
    assert "time         not known: nothing was measured yet" in lines
    assert not (site.config.state_dir / "teacher-cache").exists()


def test_a_site_that_is_not_admitted_is_told_so_with_exit_status_3(
    tmp_path: Path, pki: Pki
) -> None:
    with teaching(tmp_path / "teacher", pki) as served:
        credential = pki.site("site-a")
        served.revoke(credential)
        site = CachedSite(tmp_path / "site", pki, served.port)
        pki.write(tmp_path / "site" / "identity", credential)
        site.write_config()

        with pytest.raises(UnsignedRefusalError, match="revoked"):
            _plan(site)
        assert main(["plan", "--site", str(site.path)]) == 3


def test_the_command_prints_lines_or_json(
    tmp_path: Path, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching(tmp_path / "teacher", pki, grant=300) as served:
        site = CachedSite(tmp_path / "site", pki, served.port)
        site.write_config()
        arguments = ["plan", "--site", str(site.path), "--patches-per-second", "4"]
        told = main(arguments), capsys.readouterr().out
        as_json = main([*arguments, "--json"]), json.loads(capsys.readouterr().out)

    assert told[0] == as_json[0] == 0
    assert told[1].splitlines()[:8] == [
        "patches      24 labelled, 84 unlabelled",
        "views        4 of each at most, 432 answers",
        "in the cache  0",
        "to ask       432 patches in 28 requests",
        "on the wire  1.4 MB sent, 62.2 kB received, as messages",
        "on disk      38.7 kB with every answer",
        "budget       a run asks 432 patches, 300 of 300 are left: ask the owner of "
        "teacher teacher-a for budget.sites.site-a: 432",
        "time         0:01:48 at 4.0 patches a second (given)",
    ]
    assert "ok       steps           11 an epoch" in told[1]
    assert "ok       scenario        same (" in told[1]
    assert as_json[1]["expected_seconds"] == 108
    assert as_json[1]["share_of_left"] == pytest.approx(1.44)


def test_a_rate_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    for rate in ("0", "-1", "inf", "fast"):
        with pytest.raises(SystemExit) as error:
            main(["plan", "--site", "x", "--patches-per-second", rate])
        assert error.value.code == 2


def test_a_teacher_on_this_disk_is_asked_nothing(tmp_path: Path) -> None:
    write_teacher(tmp_path / "teacher")

    plan = plan_queries(local_config(tmp_path), epochs=None, patches_per_second=None)

    assert list(plan_lines(plan))[1:] == [
        "teacher      on this disk: nothing is asked, nothing is sent"
    ]


IRRELEVANT: dict[str, Any] = {
    "task": {"organ": "prostate", "task": "grades"},
    "distillation": {"fallback": "auto"},
}


def test_an_irrelevant_teacher_is_asked_its_reference_patch_but_for_a_baseline(
    tmp_path: Path, pki: Pki
) -> None:
    told = IRRELEVANT | {"distillation": {"fallback": "none"}}
    cases = {
        "alone": IRRELEVANT,
        "kd": IRRELEVANT | {"baselines": ["kd"]},
        "told": told,
    }
    backend = Quarters(GOLDEN_CARD)
    with teaching(tmp_path / "teacher", pki, backend=backend) as served:
        alone, with_kd, told_to_ask = (
            _plan(CachedSite(tmp_path / name, pki, served.port, **sections))
            for name, sections in cases.items()
        )

    assert (alone.queries, alone.golden, alone.requests, alone.sent_bytes) == (
        0,
        1,
        0,
        0,
    )
    assert (alone.falls_back, with_kd.falls_back, told_to_ask.falls_back) == (
        *(True, True),
        False,
    )
    assert list(plan_lines(alone))[1:] == [
        "teacher      irrelevant: asked about no patch of this site, but for its "
        "reference patch, once"
    ]
    warned = " ".join(each.text for each in alone.findings if each.state == "warning")
    assert "write distillation.fallback: none to ask all the same" in warned
    assert with_kd.queries == told_to_ask.queries == VIEWS * PATCHES


def test_of_several_irrelevant_teachers_the_plan_says_that_none_teaches(
    tmp_path: Path, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    site = CachedSite(tmp_path / "site", pki, CLOSED_PORT, **IRRELEVANT)
    write_teacher(tmp_path / "site" / "teacher")
    one = {
        "mode": "local",
        "schedule": "frozen",
        "card": "teacher/card.json",
        "weights_file": "teacher/weights.safetensors",
    }
    site.values |= {"teachers": [one, one]}
    del site.values["teacher"]
    site.write_config()

    status = main(["plan", "--site", str(site.path)])

    told = capsys.readouterr().out
    assert status == 0
    assert told.count("where every teacher is irrelevant moma learns from the lab") == 1


def test_a_licence_that_forbids_students_is_told_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = write_teacher(tmp_path / "teacher")
    forbids = Licence("CC-BY-NC-ND-4.0", "text", "none", forbids_derived_models=True)
    replace(card, licence=forbids).save(tmp_path / "teacher" / "card.json")
    local_config(tmp_path)

    status = main(["plan", "--site", str(tmp_path / "config.yaml")])

    told = capsys.readouterr().out
    assert status == 0
    assert "problem  derived models  the licence of teacher teacher-a" in told
    assert "derived_models_permitted: true" in told


@pytest.mark.parametrize("content", ["", "{}", '{"patches": 0, "seconds": 1}', "[1]"])
def test_a_damaged_rate_is_no_rate(tmp_path: Path, pki: Pki, content: str) -> None:
    folder = CacheFolder(CachedSite(tmp_path / "site", pki, CLOSED_PORT).config)
    folder.keep_rate(MeasuredRate(120, 60.0))
    kept = folder.kept_rate()
    (folder.path / "rate.json").write_text(content)

    assert kept is not None
    assert kept.patches_per_second == 2
    assert folder.kept_rate() is None


def test_the_golden_patch_is_in_the_plan() -> None:
    plan = QueryPlan("bank", "teacher-a", "", 1, 1, queries=10, granted=99, left=10)
    plan = replace(plan, site="site-b")

    without = list(plan_lines(plan))
    lines = list(plan_lines(replace(plan, golden=1)))

    assert not any("golden" in line for line in without)
    assert any(line.startswith("before it    1 reference patch") for line in lines)
    assert any("budget.sites.site-b: 100" in line for line in lines)
