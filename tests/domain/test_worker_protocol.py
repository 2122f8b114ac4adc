"""Datagrams between server and worker: what goes in comes out, and nonsense is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.domain.analysis import AnalysisResult, Colour, ContentClass, Kind, Quality
from proxy.domain.formats import Format
from proxy.domain.media import Focus, ProbeResult
from proxy.domain.variant import EncoderProfile, EncodingStage, Geometry, QualitySearch
from proxy.domain.worker_protocol import (
    FAILURE_KINDS,
    FRAME_HEADER,
    MAX_DATAGRAM,
    MAX_REPLY,
    AnalyseJob,
    FrameDecoder,
    JobFailure,
    Limits,
    MessageReader,
    MetadataJob,
    MetadataRead,
    MetadataStep,
    Ping,
    ProbeJob,
    RenderOutput,
    RenderResult,
    RenditionSet,
    RenditionSetResult,
    WorkerInfo,
    decode,
    encode,
    fragments,
    is_reply,
)
from proxy.settings import EncoderSettings, LimitSettings

Message = (
    Ping
    | ProbeJob
    | RenditionSet
    | ProbeResult
    | RenderResult
    | RenditionSetResult
    | AnalyseJob
    | AnalysisResult
    | JobFailure
    | WorkerInfo
    | MetadataJob
    | MetadataRead
)

LIMITS = LimitSettings().to_limits()
GEOMETRY = Geometry(300, 300, 400, 300, left=50)
SEARCH = QualitySearch(target=74.5, low=40, high=85, max_encodes=3)
OUTPUT = RenderOutput(GEOMETRY, EncoderSettings().profiles()[Format.AVIF], search=SEARCH)
RENDER = RenditionSet(
    LIMITS,
    (
        RenderOutput(
            GEOMETRY,
            EncoderSettings().profiles()[Format.JPEG],
            remove_background=True,
            animated=True,
            alternative=EncodingStage(EncoderSettings().profiles()[Format.PNG], SEARCH),
            base=(1200, 800),
        ),
    ),
    "© Ü/\n\0",
)
SET = RenditionSet(
    LIMITS,
    (OUTPUT, RenderOutput(GEOMETRY, EncoderSettings().profiles()[Format.PNG], animated=True)),
    "© me",
    framed=True,
)
SEARCHED = RenderResult(1, 1, 1, quality=61, score=74.7, target_missed=True)
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
ANALYSED = AnalysisResult(
    4000,
    3000,
    (Colour("#FF5733", 61.5), Colour("#33A1FF", 20)),
    (Colour("#33A1FF", 20),),
    Quality(81.5, 90, 80, 70, 100, 66.6, 99),
    ("warm", "vibrant"),
    Kind("photo", "why, in words"),
    ContentClass("content", "why, in words"),
    thumbhash="XQkOFJBQd3hgiXiVh4fkZg/3hw==",
    blurhash="LpHV6L1GnNoaQCWVt7R:Sut7WGoa",
    phash="00ff00ff00ff00ff",
    phash_mask="ffffffffffffffff",
    focus=Focus(0.25, 1 / 3),
    stages={"look": 0.01},
)
MESSAGES: dict[str, Message] = {
    "ping": Ping(),
    "probe": ProbeJob(LIMITS),
    "strict probe": ProbeJob(LIMITS, strict=True),
    "render": RENDER,
    "set": SET,
    "set of nothing": RenditionSet(LIMITS, (), framed=True),
    "probed": PROBED,
    "probed without focus": ProbeResult("", 0, "png", 1, 1, False, 1, True, None),  # noqa: FBT003
    "rendered": RenderResult(300, 200, 1, {"decode": 0.01, "encode": 1e-9}),
    "rendered at once": RenderResult(1, 1, 1),
    "rendered after a search": SEARCHED,
    "rendered as a set": RenditionSetResult((SEARCHED, JobFailure("fault", "why"), SEARCHED)),
    "rendered as a set of nothing": RenditionSetResult(()),
    "analysis": AnalyseJob(LIMITS),
    "analysed": ANALYSED,
    "analysed, and nothing there": replace(
        ANALYSED, dominant_colours=(), brand_colours=(), mood_keywords=(), focus=None
    ),
    **{kind: JobFailure(kind, "why, in words") for kind in FAILURE_KINDS},
    "metadata": MetadataJob(MetadataStep.WALK, "name.jpg"),
    "metadata read": MetadataRead("jpeg", has_credentials=True),
    "hello": WorkerInfo("8.18.7", ("jpeg", "png"), {"heif": "1.19"}),
    "hello of a bare libvips": WorkerInfo("8.18.7", ()),
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
SEARCHES = st.none() | st.builds(QualitySearch, SECONDS, COUNTS, COUNTS, COUNTS)
GEOMETRIES = st.builds(Geometry, *[COUNTS] * 6)
RESULTS = st.builds(
    RenderResult,
    COUNTS,
    COUNTS,
    COUNTS,
    st.dictionaries(st.text(), SECONDS),
    st.none() | COUNTS,
    st.none() | SECONDS,
    st.booleans(),
)
FAILURES = st.builds(JobFailure, st.text(), st.text())
OUTPUTS = st.builds(RenderOutput, GEOMETRIES, PROFILES, st.booleans(), st.booleans(), SEARCHES)
ANY_MESSAGE = st.one_of(
    st.builds(ProbeJob, LIMITS_ANY, st.booleans()),
    st.builds(
        RenditionSet,
        LIMITS_ANY,
        st.lists(OUTPUTS, max_size=3).map(tuple),
        st.none() | st.text(),
        st.booleans(),
    ),
    RESULTS,
    st.builds(RenditionSetResult, st.lists(RESULTS | FAILURES, max_size=3).map(tuple)),
    FAILURES,
    st.builds(
        WorkerInfo,
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
    assert isinstance(arrived.outputs[0].profile.format, Format)
    assert isinstance(arrived.limits.source_types, tuple)
    assert hash(decode(encode(SET)).outputs) == hash(SET.outputs)


def test_a_datagram_has_room_for_every_size_in_every_format() -> None:
    many = RenditionSet(LIMITS, (OUTPUT,) * 64, "©" * 500)
    assert len(encode(many)) < MAX_DATAGRAM / 2
    done = RenderResult(16383, 16383, 1, dict.fromkeys(("decode", "transform", "encode"), 1 / 3))
    assert len(encode(RenditionSetResult((done,) * 64))) < MAX_DATAGRAM / 2


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


def _with_output(*, without: str = "", **fields: object) -> bytes:
    """The datagram of a set whose first output is spoilt."""
    kind, whole = json.loads(encode(RENDER))
    output = {**whole["outputs"][0], **fields}
    output.pop(without, None)
    return json.dumps([kind, {**whole, "outputs": [output]}]).encode()


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
        _with_output(without="geometry"),
        _with_output(without="profile"),
        _with_output(geometry={"width": 1}),
        _with_output(geometry={"width": 1, "height": 1, "depth": 1}),
        _with_output(profile={"format": "png"}),
        _with_output(profile={"options": []}),
        _with_output(profile={"format": "jxl", "options": []}),
        _with_output(profile={"format": "png", "options": [1]}),
        _with_output(profile={"format": "png", "options": [["a", 1, 2]]}),
        _with_output(search={"target": 75}),
        _with_output(alternative={"profile": {}}),
        _with_output(unknown=1),
        _without(PROBED, "width"),
        _without(PROBED, "focus", "x"),
        _with(RENDER, limits={}),
        _with(RENDER, unknown=1),
        _with(SET, outputs=[1]),
        _with(SET, outputs=[{"geometry": {}}]),
        _with(RenditionSetResult(()), results=[["Ping", {}]]),
        _with(RenditionSetResult(()), results=[1]),
        _without(ANALYSED, "quality", "noise"),
        _with(ANALYSED, dominant_colours=[1]),
        _with(ANALYSED, kind={"name": "photo"}),
        _with(ANALYSED, mood_keywords="warm"),
        _with(ANALYSED, stages={"look": "long"}),
        _with(PROBED, width="4000"),
        _with(PROBED, focus=[0.5, 0.5]),
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


def frame(index: int, body: bytes) -> bytes:
    return FRAME_HEADER.pack(index, len(body)) + body


@given(st.lists(st.binary(max_size=50)), st.integers(1, 40))
def test_each_frame_is_given_once_and_whole(bodies: list[bytes], piece: int) -> None:
    stream = b"".join(frame(index, body) for index, body in enumerate(bodies))
    given_: list[tuple[int, bytes]] = []
    frames = FrameDecoder(lambda place, body: given_.append((place, body)), outputs=len(bodies))
    for at in range(0, len(stream), piece):
        frames(stream[at : at + piece])
    assert given_ == list(enumerate(bodies))


def test_a_frame_that_is_cut_off_is_not_given() -> None:
    given_: list[bytes] = []
    frames = FrameDecoder(lambda _, body: given_.append(body), outputs=2)
    frames(frame(0, b"abc") + frame(1, b"abcd")[:-1])
    assert given_ == [b"abc"]
    assert not frames.matches([DONE])
    frames.restart()
    frames(frame(0, b"again"))
    assert given_ == [b"abc", b"again"]


DONE = RenderResult(1, 1, 1)
FAILED = JobFailure("fault", "why")


@pytest.mark.parametrize("indexes", [(1,), (0, 0), (0, 2), (0, 1, 2)])
def test_a_frame_that_is_left_out_repeated_or_too_many_is_refused(indexes: tuple[int, ...]) -> None:
    given_: list[int] = []
    frames = FrameDecoder(lambda index, _: given_.append(index), outputs=2)
    with pytest.raises(ValueError, match="frame"):
        frames(b"".join(frame(index, b"x") for index in indexes))
    assert given_ == list(indexes[:-1])


@pytest.mark.parametrize(
    ("bodies", "results", "matches"),
    [
        ([b"x", b""], (DONE, FAILED), True),
        ([b"x", b""], (DONE, DONE), False),
        ([b"x", b"y"], (DONE, FAILED), False),
        ([b"x"], (DONE, DONE), False),
        ([b"x"], (DONE, FAILED), False),
        ([], (DONE,), False),
    ],
)
def test_frames_match_results_if_each_has_one_that_is_empty_for_a_failure(
    bodies: list[bytes], results: tuple[Any, ...], *, matches: bool
) -> None:
    frames = FrameDecoder(lambda _, __: None, outputs=2)
    frames(b"".join(frame(index, body) for index, body in enumerate(bodies)))
    assert frames.matches(results) == matches


def read(datagrams: list[bytes]) -> Any:
    messages = MessageReader()
    *before, last = map(messages.feed, datagrams)
    assert before == [None] * len(before)
    return last


@pytest.mark.parametrize(
    "size", [1, MAX_DATAGRAM - 40, MAX_DATAGRAM, 2 * MAX_DATAGRAM, 300_000, MAX_REPLY - 100]
)
def test_a_reply_of_any_size_up_to_the_limit_arrives(size: int) -> None:
    message = JobFailure("fault", "[+." + size * "x")
    datagrams = fragments(message)
    assert max(map(len, datagrams)) <= MAX_DATAGRAM
    assert read(datagrams) == message


def test_a_longer_message_is_neither_sent_nor_received() -> None:
    with pytest.raises(ValueError, match="exceeds 4194304"):
        fragments(JobFailure("fault", "x" * MAX_REPLY))
    messages, piece = MessageReader(), b"+" + b"x" * 60_000
    for _ in range(MAX_REPLY // 60_000):
        assert messages.feed(piece) is None
    with pytest.raises(ValueError, match="too long"):
        messages.feed(piece)


def test_a_message_without_its_beginning_or_its_end_is_invalid() -> None:
    first, *rest = fragments(JobFailure("fault", "x" * 150_000))
    for datagrams in (rest, [first, encode(DONE)]):
        with pytest.raises(ValueError, match="not a message"):
            read(datagrams)


JOBS = (Ping(), ProbeJob(LIMITS), AnalyseJob(LIMITS), SET)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)
def test_only_a_failure_and_the_result_of_its_kind_are_a_reply_to_a_job(job: Any) -> None:
    replies = [
        MESSAGES[name]
        for name in MESSAGES
        if is_reply(job, MESSAGES[name]) and not isinstance(MESSAGES[name], JobFailure)
    ]
    expected = {Ping: WorkerInfo, ProbeJob: ProbeResult, AnalyseJob: AnalysisResult}
    kinds = {type(reply) for reply in replies}
    assert kinds <= {expected.get(type(job), RenditionSetResult)}
    assert is_reply(job, FAILED)
    assert not is_reply(job, job)


def test_a_set_has_a_result_for_each_output() -> None:
    assert is_reply(SET, RenditionSetResult((DONE, FAILED)))
    for results in ((), (DONE,), (DONE, DONE, DONE)):
        assert not is_reply(SET, RenditionSetResult(results))
