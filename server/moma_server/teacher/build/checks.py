"""What is said of a teacher's patches before it is trained: as a site says it."""

from collections.abc import Iterator

from moma_core.data.checks.pictures import look_at_pictures
from moma_core.data.checks.rules import look_at_set
from moma_core.data.patch import PatchSource
from moma_core.data.sources.factory import DataSection, open_pictures
from moma_core.federation.schedule import FEWEST_STEPS
from moma_core.runtime.finding import Finding
from moma_server.config.recipe import TeacherRecipe


def look_at_recipe(
    recipe: TeacherRecipe, data: DataSection, source: PatchSource
) -> Iterator[Finding]:
    """Yields whether the patches can be learned from, and what may be a slip.

    Args:
        recipe: How the teacher is made.
        data: Its patches.
        source: The same, opened.
    """
    yield from look_at_set(source, figures_of={}, max_unreadable=data.max_unreadable)
    yield from look_at_pictures(
        source,
        open_pictures(data),
        view_size_px=recipe.view_size_px,
        max_unreadable=data.max_unreadable,
    )


def look_at_epochs(recipe: TeacherRecipe, steps_per_epoch: int) -> Iterator[Finding]:
    """Yields whether the recipe's epochs are enough to learn anything."""
    steps = recipe.epochs * steps_per_epoch
    if steps >= FEWEST_STEPS:
        return
    needed = -(-FEWEST_STEPS // steps_per_epoch)
    text = (
        f"{steps} in {recipe.epochs} epochs of {steps_per_epoch}: a teacher that took "
        f"fewer than {FEWEST_STEPS} knows little; set epochs: {needed} or more, or add "
        f"patches"
    )
    yield Finding("steps", "warning", text, facts={"steps": steps})
