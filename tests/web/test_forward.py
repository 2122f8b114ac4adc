"""What is stored of forwarded images: by which key, for how long, and how it is read again."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from proxy.domain.render_plan import EVERYONE, PurgeEpochs
from proxy.domain.request import VariantRequest, parse_request
from proxy.domain.variant import SizeSpec
from proxy.settings import Settings
from proxy.storage.database.upload_repository import UploadResults
from proxy.storage.renditions.rendition import MemoryRendition
from proxy.storage.renditions.tiered_store import TieredStore
from proxy.web.forward import ForwardedRequest, MediaForwarder, _pack, _unpack
from proxy.web.media_server import ForwardedResponse, MediaServer
from tests.support.server import CHROME, WEBP_ONLY
from tests.support.waiting import eventually

SIZES = {name: SizeSpec(name, side, side) for name, side in (("detail", 1200), ("grid", 500))}


def request(
    query: str = "", accept: str = CHROME, media_id: int = 5, *, lean: bool | None = None
) -> ForwardedRequest:
    wanted: VariantRequest = parse_request(query, sizes=SIZES, lean=lean)
    return ForwardedRequest(media_id, f"/serve/{media_id}?{query}", wanted, accept)


def test_requests_that_mean_the_same_share_a_response() -> None:
    digest = request("size=grid").variant().digest
    same = ("size=detail?size=grid", "size=grid&utm_source=x", "dpr=1&size=grid&v=7")
    assert {request(query).variant().digest for query in same} == {digest}
    assert request("size=grid", f"{CHROME},text/html").variant().digest == digest


def test_requests_that_differ_in_anything_that_decides_do_not() -> None:
    requests = [
        request("size=grid"),
        request("size=grid", WEBP_ONLY),
        request("size=grid", "*/*"),
        request("size=grid&format=webp"),
        request("size=grid&bg=removed"),
        request("size=grid&dpr=2"),
        request("w=480"),
        request(),
        request("size=grid", media_id=6),
        request("size=grid", lean=True),
    ]
    assert len({one.variant().digest for one in requests}) == len(requests)
    # With a format, Accept decides nothing.
    named = [request("format=webp", accept).variant().digest for accept in (CHROME, "*/*")]
    assert len(set(named)) == 1


def test_a_request_with_client_hints_is_forwarded_with_one_hint() -> None:
    assert request(lean=True).headers == {"Accept": CHROME, "Save-Data": "on"}
    assert request(lean=False).headers == request().headers == {"Accept": CHROME}
    # Whoever enables the hints keeps what is stored.
    assert request(lean=False).variant() == request().variant()


def test_after_a_purge_of_all_images_all_keys_are_new() -> None:
    epochs = PurgeEpochs()
    before = request().variant(epochs.version("", EVERYONE))
    assert before == request().variant(), "without a purge, what is stored stays"
    digests = {before.digest}
    for epoch in (1, 2):
        epochs.advance(EVERYONE, epoch)
        digests.add(request().variant(epochs.version("", EVERYONE)).digest)
    assert len(digests) == 3


class _Server:
    """A media server that answers each request with the same image."""

    target = "http://media.example.org"

    async def stream(self, *_request: object) -> ForwardedResponse:
        async def chunks() -> AsyncGenerator[bytes, None]:
            yield b"image"

        headers = {"Cache-Control": "max-age=60"}
        return ForwardedResponse(200, headers, received_at=7.0, chunks=chunks())

    async def aclose(self) -> None:
        pass


async def test_after_a_purge_of_all_images_nothing_that_is_stored_is_found(tmp_path: Path) -> None:
    epochs = PurgeEpochs()
    async with TieredStore(tmp_path / "renditions", Settings().renditions) as store:
        forwarder = MediaForwarder(
            cast(MediaServer, _Server()),
            derived=False,
            store=store,
            results=cast(UploadResults, None),
            fresh_s=60,
            epochs=epochs,
            clock=lambda: 8.0,
        )
        response = await forwarder.fetch(request())
        assert response.chunks is not None
        assert b"".join([piece async for piece in response.chunks]) == b"image"
        await eventually(lambda: store.memory.statistics()["items"] == 1)
        found = await forwarder.find(request())
        assert found is not None
        assert found.body == b"image"
        # As in a bucket, which such a purge does not change.
        epochs.advance(EVERYONE, 1)
        assert await forwarder.find(request()) is None
        await forwarder.aclose()


@pytest.mark.parametrize(
    ("control", "seconds"),
    [
        ("public, max-age=60, stale-while-revalidate=600", 60),
        ("max-age=31536000,immutable", 31_536_000),
        ("s-maxage=9", 0),
        ("private, max-age=60", 0),
        ("no-store", 0),
        ("max-age=60, no-cache", 0),
        ("max-age=60, no-cached", 60),
        ("", 0),
        ("max-age=x", 0),
    ],
)
def test_the_lifetime_is_that_of_the_media_server(control: str, seconds: int) -> None:
    assert ForwardedResponse(200, {"Cache-Control": control}).max_age_s == seconds


async def test_a_stored_response_is_read_again_as_it_was() -> None:
    headers = {"Content-Type": "image/avif", "ETag": '"a"'}
    head = ForwardedResponse(200, headers, received_at=7.5)
    found = await _unpack(MemoryRendition(_pack(head, b"body"), tier="disk"))
    assert (found.headers, found.received_at, found.body) == (headers, 7.5, b"body")
    assert replace(found, body=None).length == 4


@pytest.mark.parametrize(
    "content", [b"\0\0", b"\0\0\0\x05ab", b"\xff\xff\xff\xff{}", b"\0\0\0\2[]"]
)
async def test_a_damaged_stored_response_is_an_error_that_counts_as_a_miss(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"stored response|unexpected|empty|EOF"):
        await _unpack(MemoryRendition(content))
