"""More mistakes of a new user: in values, names, ports, pictures and manifests.

Each is told by the doctor, before a patch is sent, with what to do.
"""

import shutil
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from moma_client.reports.doctor.run import examine
from moma_core.runtime.finding import Finding
from tests.support.federation.pki import Pki
from tests.support.site.first_day import FirstDay, grey, picture
from tests.support.teacher.sealed import TEACHER_KEY

FROM_NOTHING = {"architecture": "test_efficientnet", "weights": "random"}

Mistake = Callable[[FirstDay], object]


@pytest.fixture
def site(tmp_path: Path, pki: Pki) -> FirstDay:
    return FirstDay(tmp_path, pki)


def _look(site: FirstDay) -> list[Finding]:
    now = datetime.now(UTC)
    found = list(examine(site.write(), ask=False, now=now, all_pictures=True))
    return [each for each in found if each.check not in {"coordinator", "terms"}]


def _sets(section: str, **keys: Any) -> Mistake:
    return lambda site: site.set(section, **keys)


def _is(section: str, value: Any) -> Mistake:
    return lambda site: site.values.__setitem__(section, value)


def _rows(cells: Callable[[int, Path], dict[str, str]], split: str = "") -> Mistake:
    def write(site: FirstDay) -> None:
        listed = enumerate(site.pictures(split))
        site.manifest({path: cells(number, path) for number, path in listed})

    return write


# ------------------------------------------------------------- values of the config


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (_is("view_size_px", "64px"), "a whole number, without a unit"),
        (_is("epochs", 5), "unknown key epochs: the coordinator's plan decides it"),
        (_is("learning_rate", 0.1), "learning_rate; it is training.learning_rate"),
        (_is("view_size_px", 0), "view_size_px is 0: write 16 or more"),
        (_sets("training", learning_rate="0,05"), "a number, with a point"),
        (_sets("training", accelerator="gpu"), "write 'auto', 'cpu' or 'cuda'"),
        (_sets("coordinator", max_epochs_per_round=0), "write 1 or more"),
        (_sets("coordinator", weights_may_leave="perhaps"), "write true or false"),
        (_sets("coordinator", address="https://c.example:8443"), "leave out https://"),
        (_sets("coordinator", address="c.example"), "add its port, c.example:"),
        (_sets("coordinator", address="c.example:8443/x"), "leave out what follows"),
        (_sets("network", proxy="https://proxy:3128"), "proxy by https, and only"),
        (_sets("network", proxy="socks5://proxy:1080"), "proxy by socks5, and only"),
        (_is("site", "Site A"), "such as site-a"),
        (_is("teacher", ["teacher-a"]), "write its keys below it"),
        (_is("teacher", "teacher-a"), "name, address, key, mode"),
        (_is("baselines", "ce"), "write a list, such as [a, b]"),
        (_is("views", "none"), "write 'tissue', 'tissue_strong' or 'geometry_only'"),
        (_sets("task", organ=""), "task.organ is '': it is empty"),
        (_sets("data", class_names=["weak"]), "write 2 or more"),
        (_sets("data", root=None), "data.root is None: write a path"),
        (_sets("data", patient_pattern=r"p\d+"), "into brackets, such as"),
        (_sets("data", kind="folder"), "'image_folder', 'csv_manifest'"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_what_to_write(
    site: FirstDay, mistake: Mistake, said: str
) -> None:
    mistake(site)

    (config,) = _look(site)

    assert (config.check, config.state) == ("config", "problem")
    (line,) = config.more
    assert said in line


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (_sets("training", learning_rate=10), "above 0.5 the loss runs off; 0.02"),
        (_sets("training", learning_rate=1e-7), "under 0.0001 a student hardly learns"),
        (_sets("training", head_learning_rate=5), "head_learning_rate is 5: above"),
        (_sets("training", weight_decay=0.9), "the weights shrink to nothing"),
        (_sets("training", batch_size=64), "64, and there are 48 patches"),
        (_sets("training", threads=999), "training.threads is 999, and this machine"),
        (_sets("training", ema_decay=0.99999), "is the one that began; try 0.99"),
        (_sets("distillation", temperature=10), "temperature is 10: above 1"),
        (_sets("distillation", kl_temperature=0.01), "doubts are lost; 4 won"),
        (_sets("distillation", contrastive_weight=1000), "above 30 nothing else"),
        (_sets("distillation", classification_weight=0), "labels teach nothing"),
        (
            _sets("distillation", contrastive_weight=0, distillation_weight=0),
            "the teacher is asked and teaches nothing",
        ),
        (_sets("training", precision="16-mixed"), "is for a GPU"),
        (_sets("training", devices=8), "set 1"),
        (_sets("training", keep="best", patience=1), "often chance; leave it out"),
        (_sets("training", keep_by="accuracy"), "nothing is kept by a figure"),
        (
            _is("student", FROM_NOTHING),
            "weights is random, and there are 48",
        ),
        (_sets("training", freeze_stages=6), "only the classifier learns"),
        (_sets("distillation", bank_size=2**20), "full only after 21845 epochs"),
        (_sets("egress", metrics=[]), "egress.metrics is empty"),
        (_sets("egress", min_patients=1), "one patient may leave"),
        (_sets("egress", min_patients=2), "leave the key out, and it is 10"),
        (_sets("egress", min_class_patients=1), "of a class on one patient may leave"),
        (_sets("data", max_unreadable=1000), "max_unreadable is 1000, of 144"),
    ],
)
def test_a_value_that_is_seldom_meant_is_a_warning_with_a_better_one(
    site: FirstDay, mistake: Mistake, said: str
) -> None:
    mistake(site)

    findings = _look(site)

    assert any(f.state == "warning" and said in f.text for f in findings), findings
    assert all(f.state != "problem" for f in findings)


def test_a_low_quality_of_jpeg_is_a_warning(site: FirstDay) -> None:
    site.values["teacher"] = {
        "mode": "frozen",
        "name": "teacher-a",
        "address": "localhost:1",
        "key": TEACHER_KEY,
        "encoding": "jpeg:30",
    }

    said = [f.text for f in _look(site) if f.state == "warning"]

    assert any("teacher.encoding is jpeg:30: the teacher is" in text for text in said)


def test_a_port_that_is_taken_is_a_warning(site: FirstDay) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        site.set("dashboard", port=port)
        found = [f for f in _look(site) if f.check == "ports"]

    (warning,) = found
    assert warning.state == "warning"
    assert f"dashboard.port {port} cannot be opened at 127.0.0.1" in warning.text


@pytest.mark.parametrize(
    ("host", "collides"), [("127.0.0.1", True), ("0.0.0.0", True), ("127.0.0.2", False)]
)
def test_two_pages_on_one_port_of_one_address_are_a_problem(
    site: FirstDay, host: str, collides: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    files = {"certificate": "page.pem", "key": "page.key", "token_file": "page.token"}
    site.set("dashboard", port=port)
    site.set("metrics", port=port, host=host, **(files if host == "0.0.0.0" else {}))

    found = [f for f in _look(site) if f.check == "ports"]

    assert [f.state for f in found] == ["problem"] * collides
    assert all(f"both {port}" in f.text for f in found)


# ---------------------------------------------------------- pictures and manifests


def _one_patient_in_four_spellings(number: int, path: Path) -> dict[str, str]:
    name = ("P1", "p1", "P01", "P 1")[number % 4] if number < 8 else path.stem
    return {"patient_id": name}


def _magnifications(number: int, _: Path) -> dict[str, str]:
    return {"mpp": "0.25" if number % 2 else "0.5"}


def _labels_are_files(_: int, path: Path) -> dict[str, str]:
    return {"label": f"{path.parent.name}-{path.stem}"}


def _larger_class(site: FirstDay) -> None:
    for number, path in enumerate(site.pictures(label="weak")):
        picture(path, number, height=64)


def _grey_class(site: FirstDay) -> None:
    for number, path in enumerate(site.pictures(label="weak")):
        grey(path, number)


def _larger_unseen(site: FirstDay) -> None:
    for number, path in enumerate(site.pictures("unseen")):
        picture(path, number, height=64)


def _compressed_class(site: FirstDay) -> None:
    for path in site.pictures(label="weak"):
        path.rename(path.with_suffix(".jpg"))


def _centres_are_classes(site: FirstDay) -> None:
    manifest = site.manifest()
    header, *rows = manifest.read_text().splitlines()
    centres = [f"{row},centre of {row.split(',')[1]}" for row in rows]
    manifest.write_text("\n".join([f"{header},centre", *centres]) + "\n")


def _mostly_one_patient(number: int, path: Path) -> dict[str, str]:
    return {"patient_id": path.stem if number % 8 == 0 else "P7"}


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (_centres_are_classes, "of the 4 classes is from one centre alone, of 4"),
        (_rows(_mostly_one_patient, "unseen"), "42 of 48 unseen patches are of one"),
        (_rows(_one_patient_in_four_spellings), "write each patient in one way"),
        (_rows(_magnifications), "0.25 to 0.5 microns a pixel"),
        (_larger_class, "those of class 'weak' 64: a student may learn that"),
        (_grey_class, "36 of 36 pictures of class 'weak' are grey"),
        (_larger_unseen, "those of the unseen split 64: figures would say"),
        (_compressed_class, "class 'weak' alone has files of kind .jpg"),
    ],
)
def test_what_a_student_would_learn_in_the_place_of_tissue_is_a_warning(
    site: FirstDay, mistake: Mistake, said: str
) -> None:
    mistake(site)

    findings = _look(site)

    assert any(f.state == "warning" and said in f.text for f in findings), findings


def _no_file(site: FirstDay) -> None:
    site.values["data"] = {"kind": "csv_manifest", "path": "nowhere.csv"}


def _a_folder_for_a_manifest(site: FirstDay) -> None:
    site.values["data"] = {"kind": "csv_manifest", "path": "patches"}


def _state_is_a_file(site: FirstDay) -> None:
    (site.folder / "state").write_text("")


def _no_training_split(site: FirstDay) -> None:
    shutil.rmtree(site.root / "train")


def _empty_folder(site: FirstDay) -> None:
    shutil.rmtree(site.root)
    site.root.mkdir()


def _swapped(number: int, path: Path) -> dict[str, str]:
    return {"label": f"p{number}", "patient_id": path.parent.name}


def _swapped_and_drawn(number: int, path: Path) -> dict[str, str]:
    return {**_swapped(number // 4, path), "split": ""}


def _a_link_to_nowhere(site: FirstDay) -> None:
    shutil.rmtree(site.root)
    site.root.symlink_to(site.folder / "disk that is off")


@pytest.mark.parametrize(
    ("mistake", "check", "said"),
    [
        (_rows(_swapped), "data", "label and patient_id may be swapped: see which"),
        (_a_link_to_nowhere, "data", "a link that leads nowhere, to "),
        (_no_file, "data", "there is no such file; a path in a config starts"),
        (_a_folder_for_a_manifest, "data", "kind: image_folder, root: patches"),
        (_no_training_split, "data", "give patches of the split train a label"),
        (_empty_folder, "data", "put pictures (png, jpg, tif) into <split>/<class>/"),
        (_rows(_labels_are_files), "classes", "to learn from: add labelled"),
        (_rows(lambda *_: {"split": ""}, "unseen"), "data", "name one in each row"),
        (_rows(lambda *_: {"split": "eval"}, "unseen"), "data", "expected one of"),
        (_rows(lambda *_: {"mpp": "20x"}), "data", "such as 0.5 or 0.25"),
        (_sets("data", root="/nowhere"), "data", "data.root is the folder of the"),
        (_is("state_dir", "patches/state"), "settings", "name a folder elsewhere"),
        (_state_is_a_file, "disk", "state is a file; name a folder"),
        (_is("state_dir", "/proc/state"), "disk", "cannot use /proc"),
        (_is("federation", "other"), "certificate", "write its names into the config"),
        (_is("baselines", ["ce", "ce"]), "settings", "ce more than once: name it once"),
        (
            _sets(
                "distillation",
                classification_weight=0,
                contrastive_weight=0,
                distillation_weight=0,
            ),
            "settings",
            "there is nothing to learn from",
        ),
        (_sets("teacher", card="none.json"), "teacher", "the card.json that was made"),
    ],
)
def test_what_cannot_work_is_a_problem_that_says_what_to_do(
    site: FirstDay, mistake: Mistake, check: str, said: str
) -> None:
    mistake(site)

    problems = [f for f in _look(site) if f.state == "problem"]

    assert any(f.check == check and said in f.text for f in problems), problems


def test_swapped_columns_are_told_where_splits_are_drawn_too(site: FirstDay) -> None:
    _rows(_swapped_and_drawn)(site)

    findings = _look(site)

    assert any("may be swapped" in f.text and f.check == "classes" for f in findings)


def test_names_of_patients_that_are_alike_are_told_with_their_rows(
    site: FirstDay,
) -> None:
    _rows(_one_patient_in_four_spellings)(site)

    (found,) = (f for f in _look(site) if "in one way" in f.text)

    (line,) = found.more
    assert "'P1' in train (manifest.csv line 2: train/moderate/p0.png)" in line
    assert line.count(" and ") == 3
    assert "P1" not in found.text
