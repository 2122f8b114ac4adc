"""SVG: size, texts, metadata; nothing is fetched or expanded."""

from __future__ import annotations

import base64

import pytest

from proxy.domain.errors import MetadataTooLarge
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
