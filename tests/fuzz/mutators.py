"""Ways to damage an image file: blind ones, and those that use its structure. All are seeded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType

from tests.fuzz.anatomy import Block, Field, parse_structure, repaired

Mutator = Callable[[bytes, bytes, Random], bytes]
"""A function from a file, another file and a random generator to a damaged file."""

MAX_BYTES = 4 * 1024 * 1024
"""Mutants are truncated to this size, so that duplicated blocks do not accumulate."""

_HEAD_BYTES = 256
"""Most parsers have read their headers by this offset."""
_PLAUSIBLE = (4096, 8192, 10_000, 12_000, 16_383, 16_384)
"""Sides within the limits that cause much work."""
_REPEATS = (2, 10, 100, 600)


def _place(body: bytes, chance: Random) -> int:
    """Return an offset, usually near the head."""
    if not body:
        return 0
    reach = chance.choice((32, _HEAD_BYTES, _HEAD_BYTES, 16 * _HEAD_BYTES, len(body)))
    return chance.randrange(min(reach, len(body)))


def _random_block(body: bytes, chance: Random) -> Block:
    """Return a block of up to a quarter of the file, anywhere."""
    start = _place(body, chance)
    longest = max(1, chance.choice((4, 64, 1024, len(body) // 4)))
    return Block(start, min(len(body), start + 1 + chance.randrange(longest)))


def _meaningful_block(body: bytes, chance: Random) -> Block:
    """Return a meaningful block, or any block if the file has none."""
    blocks = parse_structure(body).blocks
    return chance.choice(blocks) if blocks else _random_block(body, chance)


def flip(body: bytes, _other: bytes, chance: Random) -> bytes:
    """Flip single bits."""
    made = bytearray(body)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if made:
            made[_place(body, chance)] ^= 1 << chance.randrange(8)
    return bytes(made)


def overwrite(body: bytes, _other: bytes, chance: Random) -> bytes:
    """Replace bytes by random ones."""
    at = _place(body, chance)
    filling = chance.choice((b"\0", b"\xff", b"\x80", chance.randbytes(1)))
    length = chance.choice((1, 1, 2, 4, 8, 64))
    return body[:at] + filling * min(length, len(body) - at) + body[at + length :]


def truncate(body: bytes, _other: bytes, chance: Random) -> bytes:
    """Cut the end off."""
    return body[: chance.choice((_place(body, chance), chance.randrange(len(body) + 1)))]


def remove(body: bytes, _other: bytes, chance: Random) -> bytes:
    """Remove a block."""
    block = chance.choice((_meaningful_block, _random_block))(body, chance)
    return body[: block.start] + body[block.stop :]


def zero(body: bytes, _other: bytes, chance: Random) -> bytes:
    """Fill a block with zeros."""
    block = chance.choice((_meaningful_block, _random_block))(body, chance)
    return body[: block.start] + bytes(block.stop - block.start) + body[block.stop :]


def duplicate(body: bytes, _other: bytes, chance: Random) -> bytes:
    """Repeat a block, a few times or very often."""
    block = chance.choice((_meaningful_block, _meaningful_block, _random_block))(body, chance)
    piece = body[block.start : block.stop]
    times = min(chance.choice(_REPEATS), 1 + MAX_BYTES // max(1, len(piece)))
    return body[: block.start] + piece * times + body[block.stop :]


def move(body: bytes, _other: bytes, chance: Random) -> bytes:
    """Move a block to the start of another one."""
    block, goal = _meaningful_block(body, chance), _meaningful_block(body, chance)
    piece = body[block.start : block.stop]
    rest = body[: block.start] + body[block.stop :]
    return rest[: goal.start] + piece + rest[goal.start :]


def splice(body: bytes, other: bytes, chance: Random) -> bytes:
    """Join the beginning of one file and the end of another."""
    at = chance.choice((_place(body, chance), chance.randrange(len(body) + 1)))
    return body[:at] + other[chance.choice((at, _place(other, chance))) :]


def transplant(body: bytes, other: bytes, chance: Random) -> bytes:
    """Replace a block by a block of another file."""
    block, given = _meaningful_block(body, chance), _meaningful_block(other, chance)
    return body[: block.start] + other[given.start : given.stop] + body[block.stop :]


def boundary(body: bytes, _other: bytes, chance: Random) -> bytes:
    """Write a boundary value of 16 or 32 bits near the head."""
    field = Field(_place(body, chance), chance.choice((2, 4)), chance.choice(("big", "little")))
    return _with_field(body, field, chance)


def header(body: bytes, other: bytes, chance: Random) -> bytes:
    """Write a boundary value into a field that parsers trust."""
    fields = parse_structure(body).fields
    if not fields:
        return boundary(body, other, chance)
    first = fields[: chance.choice((8, 24, len(fields)))]
    return _with_field(body, chance.choice(first), chance)


def _with_field(body: bytes, field: Field, chance: Random) -> bytes:
    stop = field.at + field.size
    top = 1 << 8 * field.size
    value = int.from_bytes(body[field.at : stop], field.order)
    edges = (0, 1, 2, top // 2 - 1, top // 2, top - 2, top - 1)
    near = (value - 1, value + 1, value * 2, value // 2, value ^ 1 << chance.randrange(8))
    chosen = chance.choice(chance.choice((edges, near, _PLAUSIBLE)))
    return body[: field.at] + (chosen % top).to_bytes(field.size, field.order) + body[stop:]


MUTATORS: Mapping[Mutator, int] = MappingProxyType(
    {
        header: 30,
        boundary: 10,
        flip: 14,
        overwrite: 8,
        truncate: 5,
        remove: 6,
        zero: 5,
        duplicate: 7,
        move: 4,
        splice: 5,
        transplant: 6,
    }
)
"""The weight of each, in percent."""

_REPAIRED = 0.8


def mutated(body: bytes, other: bytes, chance: Random) -> bytes:
    """Damage a file one to three times; most results are repaired so far that parsers continue."""
    kinds, weights = list(MUTATORS), list(MUTATORS.values())
    for mutator in chance.choices(kinds, weights, k=chance.choice((1, 1, 2, 3))):
        body = mutator(body, other, chance)[:MAX_BYTES]
    return repaired(body) if chance.random() < _REPAIRED else body
