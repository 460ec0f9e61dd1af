import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from moma_client.cli.init import SiteSetup, init_site, render_config
from moma_client.cli.main import main
from moma_client.config.site import SiteConfig, SiteIdentity
from moma_client.config.teacher import MomentumTeacherSection, RemoteTeacherSection
from moma_client.teacher.connect import remote_settings
from moma_core.distillation.settings import DistillationSettings
from moma_core.errors import ConfigError
from moma_core.pki.certificates import create_authority, sign_request
from tests.support.teacher.sealed import TEACHER_KEY


@pytest.fixture
def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(
        render_config(SiteSetup(site="site-a", teacher_key=TEACHER_KEY))
    )
    return loaded


def _read(folder: Path, values: object) -> SiteConfig:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return SiteConfig.from_yaml(path)


def test_the_file_that_init_writes_is_valid_and_has_the_shipped_method(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    config = _read(tmp_path, values)

    assert config.site == "site-a"
    assert config.distillation == DistillationSettings()
    assert not config.coordinator.weights_may_leave


@pytest.mark.parametrize("kind", ["image_folder", "medmnist", "preset"])
def test_the_other_kinds_of_data_in_the_file_that_init_writes_are_valid(
    tmp_path: Path, values: dict[str, Any], kind: str
) -> None:
    text = render_config(SiteSetup(site="site-a"))
    _, _, after = text.partition(f"  # kind: {kind}")
    lines = [f"kind: {kind}", *after.splitlines()[1:]]
    end = next(i for i, line in enumerate(lines) if i and ": " not in line)
    own = yaml.safe_load("\n".join(line.removeprefix("  # ") for line in lines[:end]))
    values["data"] = {**own, "max_unreadable": values["data"]["max_unreadable"]}

    assert _read(tmp_path, values).data.kind == kind


def test_relative_paths_start_at_the_files_folder(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    config = _read(tmp_path, values)

    assert config.identity.key == tmp_path / "site.key"
    assert config.state_dir == tmp_path / "state"


def test_every_broken_rule_is_one_line_with_the_keys_path(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    values["trainig"] = {}
    values["training"]["batch_size"] = "many"
    values["teacher"]["in_flight"] = 0

    with pytest.raises(ConfigError) as error:
        _read(tmp_path, values)

    head, *rules = str(error.value).splitlines()
    assert head == f"{tmp_path / 'config.yaml'} is not valid:"
    assert sorted(rule.split(":")[0].strip() for rule in rules) == [
        "teacher.in_flight is 0",
        "training.batch_size is 'many'",
        "unknown key trainig; did you mean training?",
    ]


def test_a_batch_that_does_not_fit_the_bank_is_refused(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    values["distillation"] = {"bank_size": 32}

    with pytest.raises(ConfigError, match="batch_size 64 does not fit"):
        _read(tmp_path, values)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "a: [", "\x00"])
def test_a_file_that_holds_no_keys_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)

    with pytest.raises(ConfigError, match=r"config\.yaml"):
        SiteConfig.from_yaml(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml"):
        SiteConfig.from_yaml(tmp_path / "none.yaml")


def test_keys_are_made_on_the_site_and_readable_by_nobody_else(tmp_path: Path) -> None:
    written = init_site(tmp_path / "site", SiteSetup(site="site-a"))

    private = [path for path in written if path.suffix == ".key"]
    names = [path.name for path in private]
    assert names == ["site.key", "node.key", "signing.key"]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in private)


def test_the_request_names_the_site_and_can_be_signed(tmp_path: Path) -> None:
    init_site(tmp_path, SiteSetup(site="site-a", federation="gut"))
    now = datetime.now(UTC)

    certificate = sign_request(
        (tmp_path / "site.csr").read_bytes(),
        create_authority("gut", now=now),
        expected_uri="spiffe://gut/site/site-a",
        now=now,
    )

    assert b"BEGIN CERTIFICATE" in certificate


def test_a_site_is_made_once(tmp_path: Path) -> None:
    init_site(tmp_path, SiteSetup(site="site-a"))
    key = (tmp_path / "site.key").read_bytes()

    with pytest.raises(ConfigError, match="a site is made once"):
        init_site(tmp_path, SiteSetup(site="site-b"))

    assert (tmp_path / "site.key").read_bytes() == key


MOMENTUM = {
    "mode": "momentum",
    "weights_may_leave": True,
    "name": "teacher-a",
    "address": "teacher.example:8444",
    "key": TEACHER_KEY,
}


def test_a_teacher_that_follows_is_the_published_one_by_default(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    values["teacher"] = MOMENTUM

    teacher = _read(tmp_path, values).teacher

    assert isinstance(teacher, MomentumTeacherSection)
    assert (teacher.sync_every_steps, teacher.schedule) == (1, "published")
    assert teacher.batch_norm == "moving"


@pytest.mark.parametrize(
    ("section", "changed", "sentence"),
    [
        ("teacher", {"weights_may_leave": False}, "say weights_may_leave: true"),
        ("teacher", {"sync_every_steps": 0}, "teacher.sync_every_steps is"),
        ("teacher", {"schedule": "frozen"}, "teacher.schedule is"),
        ("training", {"devices": 2}, "trains on one device"),
    ],
)
def test_a_teacher_that_cannot_follow_is_refused_before_anything_is_sent(
    tmp_path: Path,
    values: dict[str, Any],
    section: str,
    changed: dict[str, Any],
    sentence: str,
) -> None:
    values["teacher"] = MOMENTUM
    values[section] = {**values[section], **changed}

    with pytest.raises(ConfigError, match=sentence):
        _read(tmp_path, values)


def test_weights_leave_to_no_teacher_unless_the_site_says_so(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    values["teacher"] = {
        key: MOMENTUM[key] for key in MOMENTUM if key != "weights_may_leave"
    }

    with pytest.raises(ConfigError, match="sends the student's weights"):
        _read(tmp_path, values)


@pytest.mark.parametrize(
    ("key", "value"),
    [("views", 4), ("cache_precision", "float16"), ("cache_key_file", "cache.key")],
)
def test_a_teacher_that_follows_is_refused_the_keys_of_the_cache(
    tmp_path: Path, values: dict[str, Any], key: str, value: object
) -> None:
    values["teacher"] = {**MOMENTUM, key: value}

    with pytest.raises(ConfigError, match=rf"unknown key teacher\.{key}; known here"):
        _read(tmp_path, values)


def test_a_teacher_can_be_reached_through_the_coordinator_alone(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    values["teacher"]["via"] = "coordinator"
    config = _read(tmp_path, values)
    assert isinstance(config.teacher, RemoteTeacherSection)
    assert remote_settings(config).teacher.is_relayed

    values["teacher"]["via"] = "somebody"
    with pytest.raises(ConfigError, match="via"):
        _read(tmp_path, values)


def test_grades_need_their_names_in_order(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    values["task"]["ordered"] = True

    with pytest.raises(ConfigError, match=r"task.ordered: true needs data.class_names"):
        _read(tmp_path, values)

    values["data"]["class_names"] = ["benign", "G3", "G4"]
    assert _read(tmp_path, values).task.ordered


def test_the_figures_of_both_kappas_may_be_allowed_and_the_former_name_too(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    keys = ["unseen_kappa", "unseen_kappa_quadratic", "ce_unseen_kappa_unweighted"]
    values["egress"]["metrics"] = keys

    assert _read(tmp_path, values).egress.metrics == tuple(keys)


def test_init_takes_every_address_and_port() -> None:
    setup = SiteSetup(
        site="site-a",
        coordinator="hub.example:9443",
        teacher_address="teacher.example:9444",
        metrics_port=0,
    )

    written = yaml.safe_load(render_config(setup))

    assert written["coordinator"]["address"] == "hub.example:9443"
    assert written["teacher"]["address"] == "teacher.example:9444"
    assert written["metrics"]["port"] == 0


@pytest.mark.parametrize("host", ["hub.example", "[2001:db8::7]"])
def test_init_adds_the_usual_ports(tmp_path: Path, host: str) -> None:
    words = ["--coordinator", host, "--teacher-address", host, "--enrolment", host]

    assert main(["init", str(tmp_path / "site"), "--name", "site-a", *words]) == 0

    written = yaml.safe_load((tmp_path / "site" / "config.yaml").read_text())
    assert written["coordinator"]["address"] == f"{host}:8443"
    assert written["coordinator"]["enrolment"] == f"{host}:8445"
    assert written["teacher"]["address"] == f"{host}:8444"


def test_init_says_what_is_to_be_done_in_words_for_a_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "St. Mary's (new)"

    assert main(["init", str(folder), "--name", "site-a"]) == 0

    lines = capsys.readouterr().out.splitlines()
    (enrol,) = [line for line in lines if "moma-client enrol" in line]
    words = shlex.split(enrol.partition("moma-client ")[2])
    assert words == ["enrol", str(folder), "--token", "..."]
    (doctor,) = [line for line in lines if "moma-client doctor" in line]
    words = shlex.split(doctor.partition("moma-client ")[2])
    assert words == ["doctor", "--site", str(folder / "config.yaml")]
    for address in ("coordinator.example:8443", "teacher.example:8444"):
        assert any(f"{address} is an example" in line for line in lines)


def test_an_ipv6_address_is_written_as_yaml_takes_it(tmp_path: Path) -> None:
    place = SiteSetup(
        site="site-a",
        coordinator="[2001:db8::7]:8443",
        teacher_address="[2001:db8::9]:8444",
    )

    init_site(tmp_path / "site", place)

    config = SiteIdentity.from_yaml(tmp_path / "site" / "config.yaml")
    assert config.coordinator.address == "[2001:db8::7]:8443"
    assert config.coordinator.enrolment == "[2001:db8::7]:8445"


FAR = {
    "mode": "frozen",
    "name": "teacher-a",
    "address": "teacher.example:8444",
    "key": TEACHER_KEY,
}
OTHER = FAR | {"name": "teacher-b", "address": "other.example:8444"}
HERE = {"mode": "local", "card": "card.json", "weights_file": "weights.safetensors"}


def test_a_list_of_one_teacher_is_that_teacher(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    values["teacher"] = FAR
    alone = _read(tmp_path, values)
    del values["teacher"]

    assert _read(tmp_path, values | {"teachers": [FAR]}) == alone


def test_of_several_teachers_each_is_asked_by_a_config_of_its_own(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    del values["teacher"]
    named = OTHER | {"classes": {"tumour": "malignant"}}
    config = _read(tmp_path, values | {"teachers": [FAR, named]})

    first, second = config.each_teacher

    assert isinstance(first.teacher, RemoteTeacherSection)
    assert isinstance(second.teacher, RemoteTeacherSection)
    assert (first.teacher.name, second.teacher.name) == ("teacher-a", "teacher-b")
    assert (first.renamed_classes, second.renamed_classes) == (
        {},
        {"tumour": "malignant"},
    )
    assert remote_settings(second).teacher.address == "other.example:8444"
    assert config.kept_views == first.kept_views == 4


@pytest.mark.parametrize(
    ("teachers", "sections", "fault"),
    [
        ([FAR, OTHER], {"teacher": FAR}, "one teacher or its teachers, not both"),
        ([], {}, "the key teacher is missing"),
        ([FAR, FAR | {"views": 2}], {}, "two are called teacher-a"),
        ([FAR, OTHER | {"views": 2}], {}, "views 2 and 4"),
        ([FAR, OTHER | {"viws": 2}], {}, "unknown key teachers.1.viws"),
        ([FAR, MOMENTUM | {"name": "t-b"}], {}, "teachers.1 follows the student"),
        ([FAR, HERE], {}, "schedule: frozen, or name it alone"),
        ([FAR, OTHER | {"weight": 0}], {}, "teachers.1.weight"),
        ([FAR, OTHER | {"weight": "agreement"}], {}, "a share and a measurement"),
        (
            [
                FAR | {"weight": "agreement"},
                OTHER | {"weight": "agreement", "views": 0},
            ],
            {},
            "teachers.1.weight 'agreement' is measured on kept outputs",
        ),
        ([FAR, OTHER], {"training": {"devices": 2}}, "train on one device"),
        ([FAR, OTHER], {"baselines": ["at"]}, "at needs the inside of one teacher"),
    ],
)
def test_teachers_that_cannot_teach_together_are_refused(
    tmp_path: Path,
    values: dict[str, Any],
    teachers: list[Any],
    sections: dict[str, Any],
    fault: str,
) -> None:
    del values["teacher"]

    with pytest.raises(ConfigError, match=fault):
        _read(tmp_path, {**values, "teachers": teachers, **sections})
