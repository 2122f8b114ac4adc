"""Accept headers, and whether the class that a cache assigns suits the client."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product

from proxy.domain.formats import Format
from proxy.domain.negotiation import acceptable, fallback, parse_accept, quality_of
from tests.domain.test_negotiation import CLIENTS, ORDER

SENT = {
    "both": "image/avif,image/webp",
    "avif": "image/avif",
    "webp": "image/webp",
    "none": "*/*",
}
"""The Accept header that the server receives for each class."""

BROWSERS = [accept for accept, _ in CLIENTS.values() if accept]
CORNERS = [
    "image/avif;q=0",
    "image/avif;q=0.000, image/webp",
    "IMAGE/AVIF ; Q=1.000 , image/webp; q = 0.5",
    "image/avif, image/avif;q=0",
    "image/avif;q=0, image/avif",
    "image/avif;q=0;q=1",
    "image/avif;q=1;q=0",
    "image/avif;level=1",
    "image/avif;q=1.1",
    "image/avif;q=2",
    "image/avif;q=",
    "image/avif;",
    "image/avif;;q=0.9;",
    "image/avif-sequence, image/webp2, ximage/webp",
    "x/y;a=image/avif",
    'x/y;a=",image/avif,"',
    'text/html;a="b", image/avif',
    "image/avif;q=0.5, */*",
    "image/avif;q=0.8, */*;q=0.5",
    "image/avif;q=0.1, image/webp;q=0.9",
    "image/webp;q=0.3, image/jpeg",
    ",,image/webp,,",
    "image/*", "*/*", ";", ",", "q=1",
    "x/y," * 700 + "image/avif",
]  # fmt: skip

KINDS = tuple(product((False, True), repeat=2))
"""Transparency and animation of an image."""


def random_headers(count: int) -> list[str]:
    """Return random headers, the same ones each time."""
    chance = random.Random(6)
    ranges = ("image/avif", "image/webp", "image/jpeg", "image/png", "image/*", "*/*", "text/html")
    weights = (
        "",
        "",
        "",
        ";q=1",
        ";q=0",
        ";q=0.5",
        "; q=0.25",
        ";q=1.0",
        ";q=0.999",
        ";q=x",
        ";a=b",
    )

    def one() -> str:
        parts = chance.choices(ranges, k=chance.randint(1, 5))
        between = chance.choice((",", ", ", " , "))
        return between.join(part + chance.choice(weights) for part in parts)

    return [one() for _ in range(count)]


def plain(accept: str) -> bool:
    """Return whether a header gives AVIF and WebP only the weights 0 and 1."""
    accepted = parse_accept(accept)
    weights = {quality_of(fmt, accepted) for fmt in (Format.AVIF, Format.WEBP)}
    return weights <= {0.0, 1.0} and '"' not in accept and len(accept) <= 2048


def faults(classes: Sequence[tuple[str, str]]) -> list[str]:
    """Return what is wrong with the classes of headers, each as a sentence."""
    return [
        f"{accept!r} is in {name}: {'animated' if moves else 'still'} -> {out}"
        for accept, name in classes
        for clear, moves in KINDS
        if (out := _out(name, clear=clear, moves=moves))
        not in _right(accept, clear=clear, moves=moves)
    ]


def _out(name: str, *, clear: bool, moves: bool) -> Format:
    return acceptable(SENT[name], order=ORDER, transparent=clear, animated=moves)[0]


def _right(accept: str, *, clear: bool, moves: bool) -> tuple[Format, ...]:
    """Return the allowed formats: for a plain header exactly the one that the server chooses."""
    if plain(accept):
        return acceptable(accept, order=ORDER, transparent=clear, animated=moves)[:1]
    asked = acceptable(accept, order=ORDER, transparent=clear, animated=moves)
    return (*asked, fallback(transparent=clear, animated=moves))
