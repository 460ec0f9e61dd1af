"""Students and slides that several files look at."""

import pytest

from moma_client.student.slides import pictures


@pytest.fixture
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws pictures with a tenth of the pixels, where they are not what is tested.

    Most of the time of a small slide is spent on its pictures.
    """
    monkeypatch.setattr(pictures, "_DPI", 50)
