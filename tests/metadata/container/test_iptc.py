"""IPTC datasets."""

from __future__ import annotations

from io import BytesIO

from hypothesis import given
from hypothesis import strategies as st

from proxy.metadata.container import iptc
from proxy.metadata.container.collector import Collector


def read(content: bytes) -> Collector:
    collector = Collector(BytesIO(b""))
    iptc.read(collector, content)
    return collector


def test_datasets_that_hold_text_are_read() -> None:
    content = b"\x1c\x01\x5a\0\x03\x1b%G" + b"\x1c\x02\x6e\0\x04" + b"Cred" + b"\x1c\x02\x19\0\x01a"
    assert [(e.keyword, e.text) for e in read(content).iptc] == [
        ("Credit", "Cred"),
        ("Keywords", "a"),
    ]


def test_an_extended_length_is_read() -> None:
    content = b"\x1c\x02\x78\x80\x04\x00\x00\x00\x05" + b"12345" + b"\x1c\x02\x6e\0\x01x"
    assert [e.text for e in read(content).iptc] == ["12345", "x"]


def test_a_wrong_length_is_damage() -> None:
    collector = read(b"\x1c\x02\x78\0\xff" + b"short")
    assert collector.damaged
    assert [e.text for e in collector.iptc] == ["short"]


@given(
    content=st.lists(st.binary(max_size=9)).map(
        lambda parts: b"".join(b"\x1c\x02" + p for p in parts)
    )
)
def test_noise_never_fails(content: bytes) -> None:
    read(content)
