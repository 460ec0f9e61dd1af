"""What may be done to a patch to make a view of it; configs name a recipe."""

import math
from dataclasses import dataclass, replace
from typing import Literal, Self


@dataclass(frozen=True, slots=True)
class ViewRecipe:
    """What may be done to a patch; zero switches a part off.

    Args:
        flips: Mirror half of the views.
        rotation: By nothing, by quarter turns (no pixel is interpolated when zoom
            and shift are off), or by any angle.
        zoom: Largest relative magnification, and its inverse, >= 0.
        shift: Largest shift in each direction, as a share of the patch, in [0, 0.5].
        stain: Largest relative change of each stain's amount, in [0, 0.5].
        photometric: Strength of the student's own jitter, in [0, 1].
    """

    flips: bool
    rotation: Literal["none", "quarter", "any"]
    zoom: float
    shift: float
    stain: float
    photometric: float

    def __post_init__(self) -> None:
        highest = {"zoom": math.inf, "shift": 0.5, "stain": 0.5, "photometric": 1.0}
        for name, bound in highest.items():
            value = getattr(self, name)
            if not 0 <= value <= bound:
                raise ValueError(f"{name} must be in [0, {bound}], got {value}")

    @classmethod
    def tissue(cls) -> Self:
        """For tissue whose class does not hang on orientation, scale or stain."""
        return cls(True, "any", zoom=0.15, shift=0.1, stain=0.1, photometric=0.3)

    @classmethod
    def tissue_strong(cls) -> Self:
        """As tissue, but the student's own copy has much other light and colour.

        The teacher is shown the same views.
        """
        return replace(cls.tissue(), photometric=0.8)

    @classmethod
    def geometry_only(cls) -> Self:
        """For labels that are colour: nothing touches it, and little leaves a view."""
        return cls(True, "quarter", zoom=0.0, shift=0.05, stain=0.0, photometric=0.0)


RecipeName = Literal["tissue", "tissue_strong", "geometry_only"]


def recipe_named(name: RecipeName) -> ViewRecipe:
    """Returns the recipe that a config file names."""
    recipes = {
        "tissue": ViewRecipe.tissue,
        "tissue_strong": ViewRecipe.tissue_strong,
        "geometry_only": ViewRecipe.geometry_only,
    }
    return recipes[name]()
