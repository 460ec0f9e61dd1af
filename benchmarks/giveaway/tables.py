"""The tables as Markdown."""

from benchmarks.giveaway.summary import Entry, Summary


def as_markdown(found: Summary) -> str:
    """Returns the four tables."""
    return "\n\n".join(
        (
            _table(
                "student | answers | coverage | patches | queries | agreement "
                "| KL, nats | L1 | cosine | accuracy | seeds",
                [
                    (
                        entry["student"],
                        entry["output"],
                        entry["coverage"],
                        entry["patches"],
                        entry["queries"],
                        *(_spread(entry, name) for name in _SHOWN),
                        entry["seeds"],
                    )
                    for entry in found["students"]
                ],
            ),
            _table(
                "one | less the other | agreement (95 %) | seeds",
                [
                    (e["one"], e["other"], _interval(e["agreement"]), e["seeds"])
                    for e in found["differences"]
                ],
            ),
            _table(
                "groups | attack | advantage (95 %) | AUC (95 %) | teachers",
                [
                    (
                        entry["groups"],
                        entry["attack"],
                        _interval(entry["advantage"]),
                        _interval(entry["auc"]),
                        entry["seeds"],
                    )
                    for entry in found["members"]
                ],
            ),
            _table(
                "layer | answers | steps | size of what is sent | relative error, "
                "median | worst | seeds",
                [
                    (
                        entry["layer"],
                        entry["answers"],
                        entry["steps"],
                        f"{entry['size']:g}",
                        f"{entry['relative_error']:.1e}",
                        f"{entry['worst']:.1e}",
                        entry["seeds"],
                    )
                    for entry in found["layers"]
                ],
            ),
        )
    )


_SHOWN = ("agreement", "kl", "l1", "cosine", "accuracy")


def _table(heading: str, rows: list[tuple[object, ...]]) -> str:
    columns = heading.count("|") + 1
    lines = [f"| {heading} |", "|---" * columns + "|"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines)


def _spread(entry: Entry, name: str) -> str:
    if entry[name] != entry[name]:  # not a number
        return ""
    return f"{entry[name]:.3f} ± {entry[f'{name}_std']:.3f}"


def _interval(found: Entry) -> str:
    return f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
