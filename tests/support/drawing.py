"""Logos drawn in code, so that the right result is known, and the two bundled sample drawings.

Everything is drawn `SCALE` times too large without antialiasing and reduced by a box filter: color
and alpha of an edge pixel are exactly the shares of what it covers. As a program it writes the
samples: ``python -m tests.support.drawing``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

SCALE = 4
SAMPLES = Path(__file__).parents[2] / "proxy" / "samples"

Colour = tuple[int, int, int]
Point = tuple[float, float]
Ink = Callable[[Colour], int | tuple[int, ...]]
"""Converts a color into the one that the canvas is drawn with."""
Pen = Callable[[ImageDraw.ImageDraw, Ink], None]
"""Draws in large coordinates."""

WHITE: Colour = (255, 255, 255)
NAVY: Colour = (22, 35, 66)
CORAL: Colour = (238, 96, 85)
AMBER: Colour = (244, 178, 62)
TEAL: Colour = (26, 138, 140)
SKY: Colour = (93, 173, 226)
PLUM: Colour = (122, 62, 130)
LEAF: Colour = (92, 160, 84)
CREAM: Colour = (250, 243, 224)
PAPER: Colour = (250, 248, 243)


@dataclass(frozen=True)
class Logo:
    """An image on a flat background, and the alpha of its perfect matte."""

    name: str
    picture: Image.Image
    """RGB."""
    alpha: Image.Image
    """Grey; 255 where the shape covers the whole pixel."""


def logos(side: int = 400) -> list[Logo]:
    """Return several kinds of logos: dark on white, color on color, thin lines, two tones."""
    kinds: Sequence[tuple[str, Colour, Callable[[float], Pen]]] = (
        ("dark shapes on white", WHITE, _shapes),
        ("colour on colour", TEAL, _petals),
        ("thin lines on grey", (226, 228, 231), _lines),
        ("curves on cream", CREAM, _curves),
        ("ring on white", WHITE, _ring),
        ("yellow with a dark rim on white", WHITE, _rimmed),
    )
    return [
        Logo(name, _drawn(side, side, pen=pen(side * SCALE), ground=ground), _cover(side, pen))
        for name, ground, pen in kinds
    ]


def draw_logo() -> Image.Image:
    """Draw an aperture of six blades above three bars, 900 x 700 RGB, on flat paper color."""
    return _drawn(900, 700, pen=_aperture, ground=PAPER)


def draw_badge() -> Image.Image:
    """Draw a rosette with ribbons and a translucent shadow, 800 x 1000 RGBA, transparent."""
    canvas = Image.new("RGBA", (800 * SCALE, 1000 * SCALE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(canvas)
    _rosette(draw, lambda _colour: (*NAVY, 72), centre=(416.0, 400.0))
    _rosette(draw, lambda colour: colour, centre=(400.0, 380.0))
    return canvas.convert("RGBa").reduce(SCALE).convert("RGBA")


def _drawn(width: int, height: int, *, pen: Pen, ground: Colour) -> Image.Image:
    canvas = Image.new("RGB", (width * SCALE, height * SCALE), ground)
    pen(ImageDraw.Draw(canvas), lambda colour: colour)
    return canvas.reduce(SCALE)


def _mask(width: int, height: int, *, pen: Pen) -> Image.Image:
    canvas = Image.new("L", (width * SCALE, height * SCALE), 0)
    pen(ImageDraw.Draw(canvas), lambda _colour: 255)
    return canvas.reduce(SCALE)


def _cover(side: int, pen: Callable[[float], Pen]) -> Image.Image:
    return _mask(side, side, pen=pen(side * SCALE))


def _at(centre: Point, radius: float, degrees: float) -> Point:
    angle = math.radians(degrees)
    return centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle)


def _circle(centre: Point, radius: float) -> tuple[Point, Point]:
    return (centre[0] - radius, centre[1] - radius), (centre[0] + radius, centre[1] + radius)


def _star(centre: Point, outer: float, inner: float, *, points: int) -> list[Point]:
    return [
        _at(centre, outer if turn % 2 == 0 else inner, turn * 180 / points - 90)
        for turn in range(2 * points)
    ]


def _shapes(side: float) -> Pen:
    def pen(draw: ImageDraw.ImageDraw, ink: Ink) -> None:
        draw.ellipse(_circle((side * 0.36, side * 0.38), side * 0.2), fill=ink(NAVY))
        draw.polygon(
            [(side * 0.5, side * 0.86), (side * 0.92, side * 0.72), (side * 0.68, side * 0.3)],
            fill=ink((40, 40, 40)),
        )
        draw.rounded_rectangle(
            ((side * 0.1, side * 0.7), (side * 0.42, side * 0.85)), side * 0.05, fill=ink(PLUM)
        )

    return pen


def _petals(side: float) -> Pen:
    def pen(draw: ImageDraw.ImageDraw, ink: Ink) -> None:
        centre = (side / 2, side / 2)
        for turn, colour in enumerate((AMBER, CREAM, CORAL) * 2):
            middle = _at(centre, side * 0.24, turn * 60)
            draw.ellipse(_circle(middle, side * 0.12), fill=ink(colour))
        draw.ellipse(_circle(centre, side * 0.212), fill=ink(NAVY))

    return pen


def _lines(side: float) -> Pen:
    def pen(draw: ImageDraw.ImageDraw, ink: Ink) -> None:
        for step in range(6):
            start = (side * 0.12, side * (0.15 + step * 0.13))
            end = (side * 0.88, side * (0.08 + step * 0.15))
            draw.line((start, end), fill=ink(NAVY), width=round(SCALE * (1.2 + 0.5 * step)))

    return pen


def _curves(side: float) -> Pen:
    def pen(draw: ImageDraw.ImageDraw, ink: Ink) -> None:
        for share, colour in ((0.42, PLUM), (0.3, LEAF), (0.18, SKY)):
            outline = [_wave((side / 2, side / 2), side * share, turn) for turn in range(720)]
            draw.polygon(outline, fill=ink(colour))

    return pen


def _wave(centre: Point, radius: float, turn: int) -> Point:
    degrees = turn / 2
    return _at(centre, radius * (0.85 + 0.15 * math.cos(math.radians(degrees * 5))), degrees)


def _ring(side: float) -> Pen:
    """Draw a ring. On a mask it is a disc, because its inside is not connected to the border."""

    def pen(draw: ImageDraw.ImageDraw, ink: Ink) -> None:
        draw.ellipse(_circle((side / 2, side / 2), side * 0.4), fill=ink(CORAL))
        draw.ellipse(_circle((side / 2, side / 2), side * 0.22), fill=ink(WHITE))

    return pen


def _rimmed(side: float) -> Pen:
    def pen(draw: ImageDraw.ImageDraw, ink: Ink) -> None:
        centre = (side / 2, side / 2)
        star = _star(centre, side * 0.42, side * 0.2, points=7)
        draw.polygon(star, fill=ink((255, 214, 64)))
        draw.ellipse(_circle(centre, side * 0.17), fill=ink((20, 20, 20)))
        draw.ellipse(_circle(centre, side * 0.13), fill=ink((255, 236, 150)))

    return pen


def _aperture(draw: ImageDraw.ImageDraw, ink: Ink) -> None:
    centre, radius = (450.0 * SCALE, 290.0 * SCALE), 210.0 * SCALE
    for turn, colour in enumerate((CORAL, AMBER, LEAF, TEAL, SKY, PLUM)):
        degrees = turn * 60
        outer = [_at(centre, radius, degrees + step) for step in range(57)]
        inner = [
            _at(centre, radius * 0.47, degrees + 100),
            _at(centre, radius * 0.47, degrees + 44),
        ]
        draw.polygon([*outer, *inner], fill=ink(colour))
    draw.ellipse(_circle(centre, radius * 0.34), fill=ink(NAVY))
    draw.ellipse(_circle(_at(centre, radius * 0.14, -135), radius * 0.08), fill=ink(SKY))
    for row, (half, colour) in enumerate(((190, NAVY), (140, TEAL), (90, CORAL))):
        top = (548 + row * 34) * SCALE
        left, right = centre[0] - half * SCALE, centre[0] + half * SCALE
        draw.rounded_rectangle(
            ((left, top), (right, top + 16 * SCALE)), 8 * SCALE, fill=ink(colour)
        )


def _rosette(draw: ImageDraw.ImageDraw, ink: Ink, *, centre: Point) -> None:
    middle = (centre[0] * SCALE, centre[1] * SCALE)
    for side, colour in ((-1, PLUM), (1, CORAL)):
        draw.polygon(_ribbon(middle, side), fill=ink(colour))
    draw.polygon(_star(middle, 320 * SCALE, 288 * SCALE, points=24), fill=ink(NAVY))
    for radius, colour in ((255, AMBER), (238, TEAL), (196, AMBER), (186, CREAM)):
        draw.ellipse(_circle(middle, radius * SCALE), fill=ink(colour))
    draw.polygon(_star(middle, 150 * SCALE, 62 * SCALE, points=5), fill=ink(CORAL))
    for turn in range(24):
        bead = _at(middle, 217 * SCALE, turn * 15)
        draw.ellipse(_circle(bead, 9 * SCALE), fill=ink(CREAM))


def _ribbon(centre: Point, side: int) -> list[Point]:
    """Draw a notched tail, to the left (-1) or the right (1) below the rosette."""
    shape = ((10, 150), (190, 120), (270, 545), (185, 500), (110, 570))
    return [(centre[0] + side * x * SCALE, centre[1] + y * SCALE) for x, y in shape]


if __name__ == "__main__":
    import pyvips  # writes PNG without a filter, which suits flat colors; Pillow cannot

    for name, picture in (("logo", draw_logo()), ("badge", draw_badge())):
        pyvips.Image.new_from_array(picture).pngsave(
            str(SAMPLES / f"{name}.png"), compression=9, keep=0
        )
