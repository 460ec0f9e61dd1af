"""One HTML page with everything in it, and a folder to put it into."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from moma_core.runtime.files import make_empty_folder, write_private

if TYPE_CHECKING:  # a dashboard takes words from here, and draws nothing
    from moma_core.report_page.charts import Chart

PAGE_NAME, JSON_NAME = "report.html", "report.json"

_OWN_TEMPLATES = Path(__file__).parent


def render_page(template: Path, values: Mapping[str, Any]) -> str:
    """Returns the page that a template makes; what is no markup is escaped.

    Args:
        template: Extends `base.html`, which lies in this folder.
        values: What it names; what it names and is missing is an error.
    """
    environment = strict_environment(template.parent, _OWN_TEMPLATES)
    environment.filters["figure"] = figure_cell
    environment.filters["percent"] = percent
    return environment.get_template(template.name).render(values)


def strict_environment(*folders: Path) -> Environment:
    """Returns what makes pages: all is escaped, and what is missing is an error.

    Args:
        folders: Where the templates lie; the first that has one is taken.
    """
    return Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_report(
    folder: Path, page: str, charts: "Sequence[Chart]", values: Mapping[str, Any]
) -> list[Path]:
    """Writes the page, its numbers as JSON, and each chart as a PNG; returns the files.

    Args:
        folder: New or empty.
        page: The HTML.
        charts: Those of the page.
        values: The numbers that the page shows.

    Raises:
        ConfigError: The folder holds something, or cannot be made.
    """
    make_empty_folder(folder)
    written = [folder / PAGE_NAME, folder / JSON_NAME]
    write_private(written[0], page.encode())
    write_private(written[1], json.dumps(values, indent=2).encode())
    for chart in charts:
        written.append(folder / f"{chart.name}.png")
        write_private(written[-1], chart.png())
    return written


def figure_cell(value: float | None, key: str = "", decimals: int = 3) -> Markup:
    """Returns a number as it is read, with the whole of it in the markup.

    Args:
        value: The number; None: there is none.
        key: Says which number it is, to a program that reads the page.
        decimals: To how many it is shown.
    """
    if value is None:
        return Markup("<span class='none'>none</span>")
    text = f"{value:.{decimals}f}"
    return Markup("<data value='{}' data-key='{}'>{}</data>").format(
        repr(float(value)), key, text
    )


def named_run(name: str) -> str:
    """Returns what to call a run: most names say already that they are a run's."""
    return name if name.startswith("run") else f"run {name}"


def percent(value: float) -> str:
    """Returns a share as a person says it; only 0 and 1 are nothing and all."""
    whole = round(100 * value)
    if 0 < value < 1:
        whole = min(99, max(1, whole))
    return f"{whole}\N{NO-BREAK SPACE}%"
