"""What commands have in common: how one is added, its options, the teacher it is of."""

import argparse

from moma_client.config.site import SiteConfig
from moma_core.errors import ConfigError, known_names
from moma_core.runtime.cli import Command, Subparsers, add_option, add_path, add_switch


def add_command(
    commands: Subparsers,
    name: str,
    command: Command,
    text: str,
    *options: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Returns the parser of a new command, which has the options of others too."""
    parser = commands.add_parser(name, parents=options, help=text)
    parser.set_defaults(command=command)
    return parser


def shared_options() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Returns the options --site and --json, which most commands have."""
    site = argparse.ArgumentParser(add_help=False)
    text = "this site's config file"
    add_path(site, "--site", text, required=True, metavar="CONFIG.YAML")
    as_json = argparse.ArgumentParser(add_help=False)
    add_switch(as_json, "--json", "print JSON, for scripts")
    return site, as_json


def add_teacher(parser: argparse.ArgumentParser) -> None:
    """Adds the option to a command that is about one teacher."""
    text = "which teacher, where the site has several"
    add_option(parser, "--teacher", text, metavar="NAME")


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
        raise ConfigError(f"there is no teacher {name!r}{known_names(name, [*known])}")
    return known[name]
