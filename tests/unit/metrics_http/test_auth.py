from pathlib import Path

import pytest

from moma_core.errors import ConfigError
from moma_core.metrics_http.auth import BearerToken, read_token
from moma_core.runtime.files import write_private
from tests.support.machine.metrics_page import TOKEN


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    write_private(path, TOKEN + b"\n")
    return path


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER "])
def test_the_token_fits(path: Path, scheme: bytes) -> None:
    assert BearerToken(path).fits(scheme + TOKEN)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Bearer ",
        b"Bearer " + TOKEN[:-1],
        b"Bearer " + TOKEN + b"0",
        b"Bearer " + TOKEN.upper(),
        b"Bearer  " + TOKEN,
        b"Basic " + TOKEN,
        TOKEN,
    ],
)
def test_anything_else_does_not_fit(path: Path, header: bytes) -> None:
    assert not BearerToken(path).fits(header)


def test_a_new_token_takes_effect_at_once_and_the_old_one_ends(path: Path) -> None:
    token = BearerToken(path)
    newer = b"f" * 32

    write_private(path, newer)

    assert token.fits(b"Bearer " + newer)
    assert not token.fits(b"Bearer " + TOKEN)


def test_nobody_is_let_in_when_the_file_is_gone(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = BearerToken(path)

    path.unlink()

    assert not token.fits(b"Bearer " + TOKEN)
    assert "the page is shown to nobody" in caplog.text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610])
def test_a_token_that_others_may_read_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)

    with pytest.raises(ConfigError, match=f"mode {mode:04o}: chmod 600"):
        read_token(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "has 0 characters, it takes 32 to 512"),
        (b"a" * 31, "has 31 characters"),
        (b"a" * 600, "characters, it takes 32 to 512"),
        (b"a" * 20 + b" " + b"a" * 20, "holds no token"),
        (b"a" * 32 + b"\x00", "holds no token"),
    ],
)
def test_what_is_no_token_is_refused(path: Path, content: bytes, sentence: str) -> None:
    write_private(path, content)

    with pytest.raises(ConfigError, match=sentence):
        read_token(path)


def test_a_missing_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the token"):
        BearerToken(tmp_path / "missing")
