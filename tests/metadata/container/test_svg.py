"""SVG: size, texts, metadata; nothing is fetched or expanded."""

from __future__ import annotations

import base64
import gzip
import zlib

import pytest

from proxy.domain.errors import MetadataTooLarge, UnknownImageFormat
from proxy.metadata.container.result import BlockKind
from tests.support.containers import walked

NS = 'xmlns="http://www.w3.org/2000/svg"'


def svg(attributes: str, inner: str = "") -> bytes:
    return f"<svg {NS} {attributes}>{inner}</svg>".encode()


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ('width="20" height="10.6px"', (20, 11)),
        ('viewBox="0 0 24 12"', (24, 12)),
        ('width="100%" height="50%" viewBox="0,0,24,12"', (24, 12)),
        ('width="5cm"', (None, None)),
        ('width="1e999" height="nan"', (None, None)),
    ],
)
def test_the_size_is_that_of_the_root(attributes: str, size: tuple[int | None, int | None]) -> None:
    image = walked(svg(attributes)).image
    assert (image.width, image.height) == size


def test_title_description_and_rdf_are_read() -> None:
    rdf = (
        '<metadata><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/"><rdf:Description dc:format="image/svg+xml"/>'
        "</rdf:RDF></metadata>"
    )
    walk = walked(svg("", f"<title>A cat</title><desc>Sits</desc>{rdf}<rect/>"))
    assert [(t.keyword, t.text) for t in walk.texts] == [
        ("Title", "A cat"),
        ("Description", "Sits"),
    ]
    assert [(e.keyword, e.text) for e in walk.xmp] == [("dc:format", "image/svg+xml")]
    assert walk.metadata_bytes == len(rdf)


def test_a_manifest_is_a_block() -> None:
    manifest = base64.b64encode(b"jumbf").decode()
    inner = f'<metadata><c:manifest xmlns:c="http://c2pa.org/manifest">{manifest}</c:manifest></metadata>'
    block = walked(svg("", inner)).block(BlockKind.C2PA)
    assert block is not None
    assert block.content == b"jumbf"


def test_an_external_entity_is_not_read() -> None:
    content = b'<!DOCTYPE svg [<!ENTITY x SYSTEM "http://192.0.2.1/">]>' + svg(
        "", "<title>&x;</title>"
    )
    walk = walked(content)
    assert walk.texts == ()
    assert walk.warnings == ("SVG: a document type or an entity is declared; it is not read",)


def test_a_drawing_of_more_than_two_mebibytes_is_refused() -> None:
    with pytest.raises(MetadataTooLarge, match="2 MiB"):
        walked(svg("", " " * (2 << 20)))


def test_a_compressed_drawing_is_read() -> None:
    walk = walked(gzip.compress(svg('width="20" height="10"', "<title>A cat</title>")))
    assert (walk.format, walk.image.width, walk.image.height) == ("svg", 20, 10)
    assert [one.text for one in walk.texts] == ["A cat"]
    assert walk.warnings == ()


def test_a_compressed_drawing_in_utf_16_is_read() -> None:
    document = f'<?xml version="1.0" encoding="UTF-16"?><svg {NS} width="7" height="5"/>'
    assert walked(gzip.compress(document.encode("utf-16"))).image.width == 7


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(b"a text"),
        gzip.compress(bytes(10_000)),
        gzip.compress(b"\x89PNG\r\n\x1a\n" + bytes(100)),
        gzip.compress(gzip.compress(svg(""))),
        gzip.compress(b""),
        # Larger than a drawing may be, and nevertheless refused for what it is.
        gzip.compress(base64.b85encode(zlib.compress(bytes(range(256)) * 40)) * 10_000, 0),
        b"\x1f\x8b\x08" + b"\xff" * 40,
        gzip.compress(svg(""))[:12] + b"\xff" * 40,
    ],
)
def test_what_is_compressed_and_no_drawing_is_refused(content: bytes) -> None:
    with pytest.raises(UnknownImageFormat, match="20\\+ formats"):
        walked(content)


@pytest.mark.slow
def test_a_compressed_drawing_may_not_inflate_to_more_than_two_mebibytes() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [deflate.compress(b"<svg>"), *(deflate.compress(b" " * (1 << 20)) for _ in range(400))]
    bomb = b"".join(parts) + deflate.flush()
    assert len(bomb) < 1 << 20
    with pytest.raises(MetadataTooLarge, match="2 MiB"):
        walked(bomb)


def test_a_truncated_compressed_drawing_is_damaged() -> None:
    inner = "".join(f"<g id='{number}'/>" for number in range(5000))
    compressed = gzip.compress(svg('width="20" height="10"', inner))
    walk = walked(compressed[:-500])
    assert walk.damaged
    assert walk.image.width == 20


def test_many_members_are_not_inflated() -> None:
    member = gzip.compress(b" ")
    walk = walked(gzip.compress(svg('width="20" height="10"')) + member * 50_000)
    assert walk.image.width == 20
