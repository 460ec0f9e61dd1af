"""Everything that can be handed in wrongly, and the sentence that is read of it."""

from pathlib import Path

import pytest

from moma_core.errors import MomaError
from tests.unit.bad_input.drawings import ANNOTATIONS, REGIONS
from tests.unit.bad_input.files import CONFIGS, LOGS
from tests.unit.bad_input.messages import MESSAGES
from tests.unit.bad_input.parties import CERTIFICATES, KEYS
from tests.unit.bad_input.pictures import ARCHIVES, MANIFESTS, PICTURES
from tests.unit.bad_input.rounds import CARDS, ROUNDS
from tests.unit.bad_input.slides import COORDINATES, SLIDES
from tests.unit.bad_input.students import STUDENTS
from tests.unit.bad_input.table import BadInput
from tests.unit.bad_input.tensors import CHECKPOINTS, WEIGHTS

TABLE = (
    *PICTURES,
    *ARCHIVES,
    *MANIFESTS,
    *SLIDES,
    *COORDINATES,
    *ANNOTATIONS,
    *REGIONS,
    *CONFIGS,
    *CHECKPOINTS,
    *WEIGHTS,
    *LOGS,
    *MESSAGES,
    *CARDS,
    *ROUNDS,
    *STUDENTS,
    *CERTIFICATES,
    *KEYS,
)


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.name)
def test_bad_input_is_told_in_a_sentence(bad: BadInput, tmp_path: Path) -> None:
    with pytest.raises(MomaError) as error:
        bad.read(tmp_path)

    assert str(error.value).replace(str(tmp_path), ".") == bad.says


def test_the_table_has_no_row_twice() -> None:
    names = [bad.name for bad in TABLE]

    assert len(names) == len(set(names)) >= 60
