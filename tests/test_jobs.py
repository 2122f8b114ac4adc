"""Datagrams between server and worker: what goes in comes out, and nonsense is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.formats import EncoderProfile, Format
from proxy.jobs import (
    FAILURE_KINDS,
    MAX_DATAGRAM,
    Hello,
    JobFailure,
    Limits,
    Ping,
    ProbeJob,
    ProbeResult,
    RenderJob,
    RenderResult,
    decode,
    encode,
)
from proxy.media import Focus
from proxy.settings import EncoderSettings, LimitSettings
from proxy.variant import Geometry

Message = Ping | ProbeJob | RenderJob | ProbeResult | RenderResult | JobFailure | Hello

LIMITS = LimitSettings().to_limits()
GEOMETRY = Geometry(300, 300, 400, 300, left=50)
RENDER = RenderJob(
    limits=LIMITS,
    geometry=GEOMETRY,
    profile=EncoderSettings().profiles()[Format.JPEG],
    remove_background=True,
    animated=True,
    copyright="© Ü/\n\0",
)
PROBED = ProbeResult(
    content_hash="ab" * 32,
    byte_size=2**40,
    source_type="jpeg",
    width=4000,
    height=3000,
    has_alpha=True,
    pages=3,
    flat_background=False,
    focus=Focus(0.25, 1 / 3),
)
MESSAGES: dict[str, Message] = {
    "ping": Ping(),
    "probe": ProbeJob(LIMITS),
    "strict probe": ProbeJob(LIMITS, strict=True),
    "render": RENDER,
    "probed": PROBED,
    "probed without focus": ProbeResult("", 0, "png", 1, 1, False, 1, True, None),  # noqa: FBT003
    "rendered": RenderResult(300, 200, 1, {"decode": 0.01, "encode": 1e-9}),
    "rendered at once": RenderResult(1, 1, 1),
    **{kind: JobFailure(kind, "why, in words") for kind in FAILURE_KINDS},
    "hello": Hello("8.18.7", ("jpeg", "png"), {"heif": "1.19"}),
    "hello of a bare libvips": Hello("8.18.7", ()),
}

COUNTS = st.integers(0, 2**63)
LIMITS_ANY = st.builds(
    Limits,
    *[COUNTS] * 6,
    st.lists(st.text(max_size=8)).map(tuple),
)
OPTIONS = st.lists(
    st.tuples(st.text(max_size=8), st.integers() | st.booleans() | st.text(max_size=8))
).map(tuple)
PROFILES = st.builds(EncoderProfile, st.sampled_from(Format), OPTIONS)
SECONDS = st.floats(0, 1e6)
ANY_MESSAGE = st.one_of(
    st.builds(ProbeJob, LIMITS_ANY, st.booleans()),
    st.builds(
        RenderJob,
        LIMITS_ANY,
        st.builds(Geometry, *[COUNTS] * 6),
        PROFILES,
        st.booleans(),
        st.booleans(),
        st.none() | st.text(),
    ),
    st.builds(RenderResult, COUNTS, COUNTS, COUNTS, st.dictionaries(st.text(), SECONDS)),
    st.builds(JobFailure, st.text(), st.text()),
    st.builds(
        Hello,
        st.text(),
        st.lists(st.text()).map(tuple),
        st.dictionaries(st.text(), st.text()),
    ),
)


@pytest.mark.parametrize("name", MESSAGES)
def test_every_message_arrives_as_it_was_sent(name: str) -> None:
    arrived = decode(encode(MESSAGES[name]))
    assert arrived == MESSAGES[name]
    assert type(arrived) is type(MESSAGES[name])


@given(ANY_MESSAGE)
def test_whatever_a_message_holds_arrives_as_it_was_sent(message: Message) -> None:
    assert decode(encode(message)) == message


def test_what_was_hashable_still_is_when_it_arrives() -> None:
    arrived = decode(encode(RENDER))
    assert hash(arrived.profile) == hash(RENDER.profile)
    assert isinstance(arrived.profile.format, Format)
    assert isinstance(arrived.limits.source_types, tuple)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_datagram_has_room_for_every_message(name: str) -> None:
    assert len(encode(MESSAGES[name])) < MAX_DATAGRAM / 16


def _without(message: Message, *path: str) -> bytes:
    """The datagram of a message with one of its fields left out."""
    kind, fields = json.loads(encode(message))
    part = fields
    for name in path[:-1]:
        part = part[name]
    del part[path[-1]]
    return json.dumps([kind, fields]).encode()


def _with(message: Message, **fields: object) -> bytes:
    kind, whole = json.loads(encode(message))
    return json.dumps([kind, {**whole, **fields}]).encode()


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\0",
        b"\xff\xfe",
        b"nonsense",
        b"null",
        b"1",
        b'"Ping"',
        b"[]",
        b'["Ping"]',
        b'["Ping", null]',
        b'["Ping", []]',
        b'["Ping", {}, {}]',
        b"{}",
        b'{"Ping": {}, "ProbeJob": {}}',
        b"[null, {}]",
        b"[[], {}]",
        b'["Limits", {}]',
        b'["ping", {}]',
        b'["Ping", {"more": 1}]',
        b'["ProbeJob", {}]',
        b'["Ping", {}',
        b'["Ping", {}]["Ping", {}]',
        b"[" * 30_000,
        encode(MESSAGES["render"])[:-1],
        _without(RENDER, "limits"),
        _without(RENDER, "limits", "source_types"),
        _without(RENDER, "limits", "max_side"),
        _without(RENDER, "geometry", "width"),
        _without(RENDER, "profile", "format"),
        _without(RENDER, "profile", "options"),
        _without(PROBED, "width"),
        _without(PROBED, "focus", "x"),
        _with(RENDER, profile={"format": "jxl", "options": []}),
        _with(RENDER, profile={"format": "png", "options": [1]}),
        _with(RENDER, profile={"format": "png", "options": [["a", 1, 2]]}),
        _with(RENDER, geometry={"width": 1, "height": 1, "depth": 1}),
        _with(RENDER, limits={}),
        _with(RENDER, unknown=1),
    ],
)
def test_nonsense_is_refused(datagram: bytes) -> None:
    with pytest.raises(ValueError, match="not a message between server and worker"):
        decode(datagram)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


def _decodes(datagram: bytes) -> bool:
    try:
        decode(datagram)
    except ValueError:
        return False
    return True


@given(st.binary(max_size=64))
@example(b'["Hello", {"libvips": 1, "source_types": 1}]')
def test_bytes_that_are_no_message_raise_nothing_but_a_value_error(datagram: bytes) -> None:
    assert _decodes(datagram) in (True, False)


@given(st.sampled_from(list(MESSAGES.values())), st.data())
def test_a_message_with_a_spoilt_field_raises_nothing_but_a_value_error(
    message: Message, draw: st.DataObject
) -> None:
    kind, fields = json.loads(encode(message))
    spoilt = draw.draw(st.sampled_from(["other", *fields]))
    datagram = json.dumps([kind, {**fields, spoilt: draw.draw(JSON)}]).encode()
    assert _decodes(datagram) in (True, False)
