"""Row 13: one range is streamed, several are answered with the whole image."""

from __future__ import annotations

import random

import pytest

from tests.faults.conftest import Launch
from tests.faults.table import Figure, Record
from tests.support.server import Library

pytestmark = pytest.mark.slow

_SEED = 13
_RANDOM = 400


def required(text: str, body: bytes) -> tuple[int, bytes | None]:
    """Return the response that RFC 9110, 14 requires for one range; None if it is optional."""
    first, _, last = text.removeprefix("bytes=").partition("-")
    if not first:
        count = int(last)
        return (206, body[max(0, len(body) - count) :]) if count else (416, None)
    start, stop = int(first), int(last) + 1 if last else len(body)
    if stop <= start and last:
        return 200, body
    return (206, body[start:stop]) if start < len(body) else (416, None)


async def test_a_single_range_is_answered_as_the_rfc_requires(
    launch: Launch, library: Library, record: Record
) -> None:
    """From memory, from disk, and for an image that is streamed."""
    chance, lost, times = random.Random(_SEED), 0, 0
    for settings in ({}, {"renditions": {"memory_max_bytes": 0, "memory_max_item_bytes": 0}}):
        server = await launch(settings)
        async with server.client() as client:
            for target in (
                f"/serve/{library.ids['photo']}?w=64&format=jpeg",
                f"/serve/{library.ids['large']}?w=640&format=png",
            ):
                for _ in range(2):
                    async with client.get(target) as answer:
                        body = await answer.read()
                for text in _ranges(chance, len(body)):
                    async with client.get(target, headers={"Range": text}) as answer:
                        received = await answer.read()
                    status, expected = required(text, body)
                    right = answer.status == status and expected in (None, received)
                    if status == 206:
                        right &= answer.headers["Content-Length"] == str(len(received))
                        right &= answer.headers["Content-Range"].endswith(f"/{len(body)}")
                    if status == 416:
                        right &= answer.headers["Content-Range"] == f"bytes */{len(body)}"
                    lost += not right
                    times += 1
        await server.stop()
    assert lost == 0
    record(Figure(13, "single ranges, first and last bytes by chance", times, lost))


def _ranges(chance: random.Random, length: int) -> list[str]:
    ends = [0, 1, length - 1, length, length + 1, 10**17]
    fixed = [f"bytes={first}-{last}" for first in ends for last in ["", *ends]]
    suffixes = [f"bytes=-{count}" for count in ends]
    starts = [chance.randrange(length) for _ in range(_RANDOM // 8)]
    return [*fixed, *suffixes, *(f"bytes={one}-{one + chance.randrange(9999)}" for one in starts)]


async def test_several_ranges_are_answered_with_the_whole_once(
    launch: Launch, library: Library, record: Record
) -> None:
    """A thousand ranges, overlapping or not, other units, overflows: the whole image, no more."""
    server = await launch()
    target = f"/serve/{library.ids['large']}?w=640&format=png"
    abusive = {
        "a thousand bytes": "bytes=" + ",".join(f"{at}-{at}" for at in range(1000)),
        "a thousand wholes": "bytes=" + ",".join(["0-"] * 1000),
        "two": "bytes=0-9,20-29",
        "overlapping": "bytes=0-99,50-149",
        "overflow": "bytes=0-" + "9" * 400,
        "a first byte beyond 64 bits": "bytes=18446744073709551616-",
        "negative": "bytes=-5-10",
        "another unit": "pixels=0-9",
        "no unit": "0-9",
        "nothing": "bytes=",
        "a dash": "bytes=-",
        "letters": "bytes=a-b",
        "other digits": "bytes=\u0661-\u0662",
    }
    lost = 0
    async with server.client() as client:
        async with client.get(target) as answer:
            body, etag = await answer.read(), answer.headers["ETag"]
        for text in abusive.values():
            async with client.get(target, headers={"Range": text}) as answer:
                lost += (answer.status, await answer.read()) != (200, body)
        for condition, status in (
            (etag, 206),
            (f"W/{etag}", 200),
            ('"another"', 200),
            ("Wed, 25 Nov 2026 00:00:00 GMT", 200),
            ("nonsense", 200),
        ):
            headers = {"Range": "bytes=0-9", "If-Range": condition}
            async with client.get(target, headers=headers) as answer:
                lost += answer.status != status
    assert lost == 0
    record(Figure(13, "lists of 1,000 ranges, overflows, If-Range", len(abusive) + 5, lost))
