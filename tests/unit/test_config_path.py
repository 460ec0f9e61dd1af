from pathlib import Path

from moma_core.config import ConfigPath, Section, validated


class _File(Section):
    images: ConfigPath


def test_a_relative_path_is_taken_from_the_config_files_folder(tmp_path: Path) -> None:
    config = validated(_File, {"images": "patches"}, tmp_path / "site.yaml")

    assert config.images == tmp_path / "patches"


def test_an_absolute_path_stays_as_it_is(tmp_path: Path) -> None:
    config = validated(_File, {"images": "/srv/patches"}, tmp_path / "site.yaml")

    assert config.images == Path("/srv/patches")


def test_a_home_folder_is_expanded(tmp_path: Path) -> None:
    config = validated(_File, {"images": "~/patches"}, tmp_path / "site.yaml")

    assert config.images == Path.home() / "patches"


def test_a_section_made_in_code_takes_paths_from_the_working_folder() -> None:
    assert _File(images=Path("patches")).images == Path("patches")
