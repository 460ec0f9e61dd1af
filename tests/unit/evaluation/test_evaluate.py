import pytest

from moma_core.data.sources.csv_manifest import open_csv_manifest
from moma_core.data.sources.image_files import FilePatches
from moma_core.errors import StoppedError
from moma_core.evaluation.metrics import evaluate_split
from moma_core.models.backbone import Normalise
from tests.support.machine.pictures import write_picture
from tests.support.site.tiny import ConvEncoder

PATCHES = 130  # three batches
NORMALISE = Normalise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FilePatches:
    folder = tmp_path_factory.mktemp("patches")
    write_picture(folder / "patch.png")
    lines = ["path,label,split"]
    lines += [f"patch.png,{'ab'[row % 2]},validation" for row in range(PATCHES)]
    (folder / "m.csv").write_text("\n".join(lines))
    return open_csv_manifest(folder / "m.csv")


def test_figures_bear_the_name_of_their_split(source: FilePatches) -> None:
    student = ConvEncoder(classes=2)

    found = evaluate_split(
        student, NORMALISE, source, "validation", 16, stopped=lambda: False
    )

    assert found["validation_accuracy"] == pytest.approx(0.5)
    assert all(name.startswith("validation_") for name in found)


def test_an_evaluation_hears_a_stop_between_two_batches(source: FilePatches) -> None:
    student = ConvEncoder(classes=2)
    looks = iter([False, True])

    with pytest.raises(StoppedError, match="while evaluating"):
        evaluate_split(
            student, NORMALISE, source, "validation", 16, stopped=lambda: next(looks)
        )
