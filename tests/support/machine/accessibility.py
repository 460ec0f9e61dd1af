"""What axe-core finds wrong with a page for who uses a keyboard or a screen reader."""

import json
from typing import Any

from tests.support.machine.chromium import Tab
from tests.support.machine.needs import needs_made

_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def accessibility_faults(tab: Tab) -> list[Any]:
    """Returns the rules that the page in a tab breaks, each with the elements."""
    axe = needs_made("axe/package/axe.min.js", "make axe", required=False)
    tab.run(f"{axe.read_text('utf-8')};0")
    found: list[Any] = tab.run(
        f"axe.run({{runOnly: {json.dumps(_RULES)}}}).then(found => "
        "found.violations.map(one => [one.id, one.nodes.map(n => n.html)]))"
    )
    return found
