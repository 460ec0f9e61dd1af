"""Colours of classes that colour-blind people tell apart, on a pink picture."""

_OKABE_ITO = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (204, 121, 167),
)
"""Okabe and Ito (2008), without black; the two blues apart, and the pink one, like
tissue, last."""

_TOL_MUTED = (
    (51, 34, 136),
    (221, 204, 119),
    (17, 119, 51),
    (136, 204, 238),
    (136, 34, 85),
    (153, 153, 51),
    (68, 170, 153),
    (204, 102, 119),
    (170, 68, 153),
)
"""Paul Tol's "muted" scheme."""


def class_colours(
    classes: int, *, is_ordered: bool = False
) -> list[tuple[int, int, int]]:
    """Returns a colour for each class, in RGB of 0 to 255.

    Classes that are ordered run from dark to light, as a scale that colour-blind people
    see. So do more than nine: no colours are left that everybody tells apart, and
    neighbours at least differ in lightness.
    """
    for known in (_OKABE_ITO, _TOL_MUTED):
        if classes <= len(known) and not is_ordered:
            return list(known[:classes])
    from matplotlib import colormaps

    scale, last = colormaps["cividis"], max(1, classes - 1)
    shades = (scale(number / last) for number in range(classes))
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b, _ in shades]
