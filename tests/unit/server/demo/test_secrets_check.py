"""The demo's own check, against what somebody might have left lying about."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from moma_server.demo.programs import DemoError
from moma_server.demo.secrets_check import check_logs, check_nothing_leaked

INSTITUTIONS = ("teacher", "site-a", "site-b")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Four folders, each with patches of its own and one that all share."""
    generator = torch.Generator().manual_seed(0)
    for name in INSTITUTIONS:
        folder = tmp_path / name / "patches"
        folder.mkdir(parents=True)
        rows = ["path,label,split", "0.png,a,train", "1.png,b,validation"]
        rows += ["2.png,a,unseen"]
        (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
        for place in range(2):
            pixels = torch.randint(256, (8, 8, 3), generator=generator).byte().numpy()
            Image.fromarray(pixels).save(folder / f"{place}.png")
        Image.new("RGB", (8, 8), "white").save(folder / "2.png")
    (tmp_path / "coordinator").mkdir()
    weights = {
        "conv": torch.randn(64, 64, generator=generator),
        "fc": torch.randn(32, 4, generator=generator),
    }
    (tmp_path / "teacher" / "teacher").mkdir()
    save_file(weights, tmp_path / "teacher" / "teacher" / "weights.safetensors")
    return tmp_path


def test_a_clean_tree_passes_and_says_what_was_searched(out: Path) -> None:
    found = check_nothing_leaked(out)

    assert len(found) == 3
    assert found[0].startswith("2 tensors of the teacher")


def test_the_teachers_weights_in_a_sites_checkpoint_are_found(out: Path) -> None:
    weights = load_file(out / "teacher" / "teacher" / "weights.safetensors")
    state = {"step": 3, "distiller": {"teacher.conv": weights["conv"]}}
    torch.save(state, out / "site-a" / "checkpoint.pt")

    with pytest.raises(DemoError, match=r"checkpoint\.pt holds weights of the teacher"):
        check_nothing_leaked(out)


def test_a_patch_of_the_teacher_under_another_name_is_found(out: Path) -> None:
    with Image.open(out / "teacher" / "patches" / "0.png") as image:
        image.save(out / "site-b" / "holiday.png", compress_level=0)

    with pytest.raises(DemoError, match=r"holiday\.png is a patch of the teacher"):
        check_nothing_leaked(out)


@pytest.mark.parametrize("server", ["teacher", "coordinator"])
def test_a_patch_of_a_site_with_a_server_is_found(out: Path, server: str) -> None:
    content = (out / "site-a" / "patches" / "1.png").read_bytes()
    (out / server / "cache.png").write_bytes(content)

    with pytest.raises(DemoError, match=r"cache\.png is a patch of site-a"):
        check_nothing_leaked(out)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("the key is MIGHAgEAMBMGByqGSM49AgEGCCqGSM49", "a part of a key"),
        ("enrol --token moma1_demo_site_site-a_0123", "an enrolment token"),
        ("cannot read 00007.png", "the name of a patch"),
    ],
)
def test_what_a_log_says_too_much_of_is_found(out: Path, said: str, what: str) -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49\n"
    (out / "site-a" / "site.key").write_text(key)
    (out / "logs").mkdir()
    log = out / "logs" / "site-a.log"
    log.write_text("round 1/2 train\n")
    clean = check_logs(out)

    log.write_text(f"INFO {said}\n")

    assert clean == [
        "keys, tokens and names of patches searched for in 1 logs: not there"
    ]
    with pytest.raises(DemoError, match=what):
        check_logs(out)
