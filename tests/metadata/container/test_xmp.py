"""XMP properties in their forms, and packets that are hostile."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metadata.container import xmp
from proxy.metadata.container.collector import Collector
from tests.support.containers import PACKET

DC = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'


def read(packet: str | bytes) -> Collector:
    collector = Collector(BytesIO(b""))
    xmp.read(collector, packet if isinstance(packet, bytes) else packet.encode(), "XMP")
    return collector


def pairs(inner: str) -> list[tuple[str, str]]:
    return [(entry.keyword, entry.text) for entry in read(PACKET.format(inner)).xmp]


def test_attributes_and_elements_are_properties() -> None:
    assert pairs(
        f'<rdf:Description {DC} dc:format="a"><dc:source>b</dc:source></rdf:Description>'
    ) == [
        ("dc:format", "a"),
        ("dc:source", "b"),
    ]


def test_items_of_a_list_are_entries_with_their_language() -> None:
    inner = (
        f"<rdf:Description {DC}><dc:title><rdf:Alt><rdf:li xml:lang='x-default'>Cat</rdf:li>"
        "<rdf:li xml:lang='de'>Katze</rdf:li></rdf:Alt></dc:title></rdf:Description>"
    )
    found = [(e.keyword, e.text, e.language) for e in read(PACKET.format(inner)).xmp]
    assert found == [("dc:title", "Cat", ""), ("dc:title", "Katze", "de")]


def test_fields_of_a_structure_have_its_name() -> None:
    inner = (
        '<rdf:Description xmlns:a="urn:a"><a:box rdf:parseType="Resource"><a:one>1</a:one></a:box>'
        '<a:seq><rdf:Seq><rdf:li a:two="2"/></rdf:Seq></a:seq></rdf:Description>'
    )
    assert pairs(inner) == [("a:box/a:one", "1"), ("a:seq/a:two", "2")]


@pytest.mark.parametrize(
    ("inner", "found"),
    [
        ('<a:b rdf:resource="urn:x"/>', [("a:b", "urn:x")]),
        (
            '<a:b><rdf:Bag><rdf:li rdf:resource="urn:x"/><rdf:li>urn:y</rdf:li></rdf:Bag></a:b>',
            [("a:b", "urn:x"), ("a:b", "urn:y")],
        ),
        (
            '<a:b rdf:parseType="Resource"><a:c rdf:resource="urn:x"/></a:b>',
            [("a:b/a:c", "urn:x")],
        ),
        (
            '<a:b><rdf:Description a:c="1"><a:d rdf:resource="urn:x"/></rdf:Description></a:b>',
            [("a:b/a:c", "1"), ("a:b/a:d", "urn:x")],
        ),
        ('<a:b><rdf:Description rdf:about="urn:x"/></a:b>', [("a:b", "urn:x")]),
        ('<a:b rdf:value="x" a:q="y"/>', [("a:b", "x"), ("a:b/a:q", "y")]),
        ('<a:b rdf:resource=" "/><a:c rdf:ID="x" rdf:datatype="urn:x"/>', []),
    ],
)
def test_values_in_attributes_of_rdf_are_properties(
    inner: str, found: list[tuple[str, str]]
) -> None:
    outer = '<rdf:Description rdf:about="urn:file" xmlns:a="urn:a">{}</rdf:Description>'
    assert pairs(outer.format(inner)) == found


def test_a_known_namespace_has_its_usual_prefix() -> None:
    inner = '<rdf:Description xmlns:zz="http://purl.org/dc/elements/1.1/" zz:format="a"/>'
    assert pairs(inner) == [("dc:format", "a")]
    assert read(PACKET.format(inner)).xmp[0].where == "XMP-dc"


def test_a_packet_in_utf_16_and_a_padded_one_are_read() -> None:
    packet = PACKET.format('<rdf:Description xmlns:a="urn:a" a:b="猫"/>')
    assert [e.text for e in read(packet.encode("utf-16")).xmp] == ["猫"]
    assert [e.text for e in read(packet.encode() + b"\n \0\0").xmp] == ["猫"]


@pytest.mark.parametrize(
    "packet",
    [
        '<!DOCTYPE a [<!ENTITY b "c">]><a xmlns:q="urn:q" q:x="1">&b;</a>',
        '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        '<!DOCTYPE a SYSTEM "http://192.0.2.1/x.dtd"><a/>',
        "<!DOCTYPE a [" + '<!ENTITY x0 "ha">' + "".join(
            f'<!ENTITY x{n} "&x{n - 1};&x{n - 1};">' for n in range(1, 40)
        ) + "]><a>&x39;</a>",
    ],
)  # fmt: skip
def test_document_types_and_entities_are_refused(packet: str) -> None:
    collector = read(packet)
    assert collector.xmp == []
    assert "is not read" in collector.result("jpeg").warnings[0]


def test_what_precedes_a_fault_is_kept() -> None:
    collector = read('<a xmlns:q="urn:q" q:x="1"><q:y>2</q:y><broken')
    assert [e.text for e in collector.xmp] == ["1", "2"]
    assert "not well-formed" in collector.result("jpeg").warnings[0]


def test_many_elements_and_deep_ones_end() -> None:
    many = read("<a xmlns='urn:a' b='1'>" + "<c/>" * 60_000 + "</a>")
    deep = read("<a>" * 100_000)
    for collector in (many, deep):
        assert collector.result("jpeg").warnings == ("XMP: more elements than are read",)


def test_long_names_are_not_repeated_for_each_property() -> None:
    name = "a:" + "n" * 1_000_000
    entries = read(f"<{name} xmlns:a='urn:a'>" + "<a:b>1</a:b>" * 1000 + f"</{name}>").xmp
    assert len(entries) == 1000
    assert sum(len(entry.keyword) for entry in entries) < 400_000


@pytest.mark.parametrize("encoding", ["nonsense", "utf-7", "idna", "base64"])
def test_an_unknown_encoding_is_a_warning(encoding: str) -> None:
    collector = read(f'<?xml version="1.0" encoding="{encoding}"?><a/>')
    assert len(collector.result("jpeg").warnings) <= 1


@given(
    packet=st.binary(max_size=200)
    | st.text(alphabet="<a>/='\" :x&;!?[]", max_size=60).map(str.encode)
)
def test_noise_never_fails(packet: bytes) -> None:
    read(packet)
