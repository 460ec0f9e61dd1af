"""Which of a site's teachers a command is about."""

import argparse

from moma_client.config.site import SiteConfig
from moma_core.config import did_you_mean
from moma_core.errors import ConfigError


def add_teacher(parser: argparse.ArgumentParser) -> None:
    """Adds the option to a command that is about one teacher."""
    parser.add_argument(
        "--teacher", metavar="NAME", help="which teacher, where the site has several"
    )


def config_of(arguments: argparse.Namespace) -> SiteConfig:
    """Returns the site's config as if the teacher that is meant were its only one.

    Raises:
        ConfigError: The file is not valid, it is not said which of several teachers is
            meant, or there is none of this name.
    """
    config, name = SiteConfig.from_yaml(arguments.site), arguments.teacher
    known = {
        each.teacher.name: each
        for each in config.each_teacher
        if each.teacher.is_remote
    }
    if name is None and not config.teachers:
        return config
    if name is None:
        raise ConfigError(f"say which teacher: --teacher {' or '.join(known)}")
    if name not in known:
        raise ConfigError(f"there is no teacher {name!r}{did_you_mean(name, [*known])}")
    return known[name]
