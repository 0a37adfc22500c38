"""Where the labels of marks stand in a plot, so that none covers another or a mark.

Lengths are the units of the plot's SVG; places are counted from its lower left corner.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .panel import MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RADII = (0, 6, 12, 20, 30, 42, 56, 72, 90, 110, 132, 156)
ANGLES = (0, 180, 90, 270, 45, 135, 315, 225)
"""Degrees: beside a mark is better than above it, and that is better than askew."""
GAP = 8
"""Between a mark's centre and its label."""
FAR = 22
"""From here on a line leads from a label to its mark."""
LEAD = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkB": 5}
BY_POINTS: dict[str, Any] = {"xycoords": "figure points", "textcoords": "offset points"}


class Label(NamedTuple):
    """A text beside a mark."""

    text: str
    colour: str
    width: float
    height: float


class Box(NamedTuple):
    """A rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> "Box":
        """Return the rectangle with this centre."""
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    def overlap(self, other: "Box") -> float:
        """Return the area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    def is_within(self, other: "Box") -> bool:
        """Return whether `other` covers all of it."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.bottom >= other.bottom
            and self.top <= other.top
        )


def write_labels(
    axes: "Axes", marks: Sequence[tuple[float, float]], labels: Sequence[Label], obstacles: Sequence[Box]
) -> None:
    """Write a label beside each mark, with a line to the mark where it had to move away; `marks` as of `drawn_at`."""
    left, bottom, right, top = (float(end) * _scale_of(axes) for end in axes.bbox.extents)
    sizes = [(label.width, label.height) for label in labels]
    centres = placed(marks, sizes, Box(left, bottom, right, top), obstacles)
    for number, ((x, y), centre, label) in enumerate(zip(marks, centres, labels, strict=True)):
        shift = (centre[0] - x, centre[1] - y)
        if max(abs(shift[0]) - label.width / 2, abs(shift[1])) > FAR:
            axes.annotate("", (x, y), shift, zorder=2, gid=f"lead-{number}", arrowprops=LEAD, **BY_POINTS)
        axes.annotate(label.text, (x, y), shift, ha="center", va="center", color=label.colour, zorder=5, **BY_POINTS)


def drawn_at(axes: "Axes", places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return where values are drawn, in the units of the plot's SVG from its lower left corner."""
    if not places:
        return []
    return [(float(x) * _scale_of(axes), float(y) * _scale_of(axes)) for x, y in axes.transData.transform(places)]


def _scale_of(axes: "Axes") -> float:
    """Return how many units of the plot's SVG one pixel of the figure is."""
    return 72 / float(axes.figure.dpi)


def placed(
    marks: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    frame: Box,
    obstacles: Sequence[Box],
) -> list[tuple[float, float]]:
    """Return the centres of labels of these sizes, one for each mark, within `frame` and as near as there is room.

    Where there is none, a label stands where it covers least.
    """
    taken = list(obstacles)
    centres = []
    for (x, y), (width, height) in zip(marks, sizes, strict=True):
        boxes = [box for box in _around(x, y, width, height) if box.is_within(frame)]
        best = min(boxes, key=lambda box: sum(map(box.overlap, taken)), default=Box.around(x, y, width, height))
        taken.append(best)
        centres.append(((best.left + best.right) / 2, (best.bottom + best.top) / 2))
    return centres


def _around(x: float, y: float, width: float, height: float) -> Iterator[Box]:
    """Yield the places for a label, the nearest first; `min` takes the first of equals."""
    for radius in RADII:
        for angle in ANGLES:
            along, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            yield Box.around(
                x + along * (GAP + radius + width / 2), y + up * (GAP + radius + height / 2), width, height
            )
