"""Where a student comes from: what stands on its card once it leaves the site."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Provenance:
    """Of an exported student; nothing of it names a patient, a slide or a file.

    Args:
        federation: In which it was trained.
        site: Which trained it.
        site_key: The site's fingerprint; its key signs the card.
        run: Its name.
        date: Of the export, UTC, ISO 8601.
        teacher_key: The teacher's fingerprint; empty: none was pinned.
        terms: Digest of the teacher's terms; empty: it stated none, or had no part.
        patches_asked: Of the teacher in the run, repetitions counted, rounded to tens
            of patches in all their views; None: not known.
        patches_charged: To the site over the life of the agreement, all runs together,
            as the teacher last said, rounded alike; None: not known.
        patches: By what they were for, rounded to tens.
        figures: By name, those that the site's egress policy lets out.
        versions: Of the tools, by name.
    """

    federation: str
    site: str
    site_key: str
    run: str
    date: str
    teacher_key: str
    terms: str
    patches_asked: int | None
    patches_charged: int | None
    patches: dict[str, int]
    figures: dict[str, float]
    versions: dict[str, str]
