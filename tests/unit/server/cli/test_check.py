"""`moma-server --check` refuses what the start would refuse, and writes nothing."""

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from moma_core.errors import ConfigError, MomaError
from moma_server.app import run_server
from moma_server.cli.init import ServerSetup, init_server
from moma_server.cli.main import main
from moma_server.config.server import ServerConfig
from moma_server.membership.pinned_sites import approve_site
from tests.support.teacher.reference_patch_teacher import write_golden_teacher
from tests.support.teacher.sealed import TEACHER_KEY


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Config of a coordinator whose own teacher is made."""
    folder = tmp_path / "server"
    init_server(folder, ServerSetup(metrics_port=0))
    write_golden_teacher(folder / "teacher")
    return folder / "server.yaml"


def _change(path: Path, section: str = "teacher", **values: Any) -> None:
    found = yaml.safe_load(path.read_text())
    found[section] |= values
    path.write_text(yaml.safe_dump(found))


def _check(path: Path) -> int:
    return main(["--config", str(path), "--check"])


def test_check_opens_no_port_and_writes_nothing(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(config.parent.rglob("*"))

    assert _check(config) == 0

    assert capsys.readouterr().out == f"{config} is valid\n"
    assert sorted(config.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"card": "nowhere.json"}, "nowhere.json"),
        ({"weights_file": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"name": "teacher-b"}, "the card is of teacher 'teacher-a'"),
        ({"signing_key": "coordinator.key"}, "is no Ed25519 key"),
        (
            {"policy": {"outputs": {"embedding": False, "logits": False}}},
            "neither embedding nor logits",
        ),
        (
            {"limits": {"max_patches_per_request": 300}},
            "max_patches_per_request is 300, more than max_batch_patches, 256",
        ),
        (
            {"limits": {"max_queued_requests": 8}},
            "max_queued_requests_per_site is 32, more than max_queued_requests, 8",
        ),
        (
            {"limits": {"max_queued_bytes": 2**20}},
            "more than max_queued_bytes, 1048576: lower the one, or raise the other",
        ),
        (
            {"identity": {"certificate": "ca.pem", "key": "teacher.key"}},
            "does not belong to the key",
        ),
    ],
)
def test_check_and_start_refuse_a_teacher_in_the_same_words(
    config: Path, caplog: pytest.LogCaptureFixture, values: Any, sentence: str
) -> None:
    _change(config, **values)

    assert _check(config) == 1

    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert sentence in record.getMessage()
    assert not record.exc_info
    values = yaml.safe_load(config.read_text())
    del values["coordinator"]  # of no matter here, and its engine takes seconds
    config.write_text(yaml.safe_dump(values))
    caplog.clear()
    assert main(["--config", str(config)]) == 1
    assert record.getMessage() in caplog.text


def test_check_refuses_a_coordinator_whose_certificate_is_missing(
    config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    identity = {"certificate": "nowhere.pem", "key": "coordinator.key"}
    _change(config, section="coordinator", identity=identity)

    assert _check(config) == 1

    assert "nowhere.pem" in caplog.text
    with pytest.raises(MomaError, match=r"nowhere\.pem"):
        run_server(ServerConfig.from_yaml(config))


@pytest.mark.parametrize("port", ["enrolment", "relay"])
def test_check_refuses_an_authority_that_a_coordinators_port_cannot_read(
    config: Path, caplog: pytest.LogCaptureFixture, port: str
) -> None:
    sections: dict[str, Any] = {"enrolment": None, "relay": None, port: {}}
    _change(config, section="coordinator", **sections)
    _change(config, section="authority", certificate="coordinator.key")
    values = yaml.safe_load(config.read_text())
    del values["teacher"]  # whose port reads it, too
    config.write_text(yaml.safe_dump(values))

    assert _check(config) == 1

    assert "the authority's certificate cannot be read" in caplog.text


def test_check_refuses_a_gpu_that_is_not_there(
    config: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    _change(config, accelerator="cuda")

    assert _check(config) == 1

    assert "teacher.accelerator is cuda, but there is no GPU" in caplog.text


@pytest.mark.parametrize(
    ("sites", "sentence"),
    [
        ({"site-a": -5}, "teacher.budget.sites.site-a is -5: write"),
        ({"site_a": 5}, "such as site-a"),
        ({"Site-A": 5}, "such as site-a"),
    ],
)
def test_a_budget_that_cannot_be_is_named(
    config: Path, sites: dict[str, int], sentence: str
) -> None:
    _change(config, budget={"sites": sites})

    with pytest.raises(ConfigError) as refused:
        ServerConfig.from_yaml(config)

    assert sentence in str(refused.value)


def test_a_budget_of_a_name_near_an_approved_site_is_warned_of(
    config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _change(config, budget={"sites": {"sitea": 5, "site-b": 5, "site-c": 5}})
    for site in ("site-a", "site-b"):
        approve_site(ServerConfig.from_yaml(config), site, TEACHER_KEY)

    assert _check(config) == 0

    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert [line for line in warned if "teacher.budget" in line] == [
        "teacher.budget.sites names sitea, which is not approved; did you mean site-a?"
    ]
