"""Input of the metadata routes: who calls, and which files are stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from proxy.domain.errors import (
    BadParameter,
    BodyTooSlow,
    EmptyFile,
    ExtractionQueueFull,
    FileTooLarge,
    FileTooLargeForTier,
    NoFile,
    RequestError,
    TierInsufficient,
    TooManyFailures,
    TooManyRequests,
    Unauthorized,
    UnknownImageFormat,
    UnsupportedBody,
)
from proxy.metadata.extractor import Extractor
from proxy.metadata.temp_folder import TempFolder
from proxy.metadata.tiers import Tier
from proxy.settings import MetadataSettings, TokenKey, UserSettings
from proxy.web.auth import SESSION_COOKIE, FailureLimit, KeyGuard, RequestLimit, TokenVerifier
from proxy.web.json_response import TIER
from proxy.web.metadata_input import (
    Caller,
    CallerGuard,
    FormReceiver,
    NamedFile,
    ReceivedForm,
    RefusedFile,
    clean_name,
    query_values,
)
from tests.metadata.engines import BMP, JPEG, Engines, extractor_of
from tests.support.server import Serving
from tests.support.uploads import BOUNDED, KEY, KEYED, SECRET, parts, token
from tests.web.bodies import body_request

ENTERPRISE = Caller(7, Tier.ENTERPRISE)
FILE = {"Content-Disposition": 'form-data; name="file"; filename="a.jpg"'}
NOT_CHOSEN = {"Content-Disposition": 'form-data; name="file"; filename=""'}
LONG_S = 600.0


def guard(public_url: str = "", limit: RequestLimit | None = None, **settings: Any) -> CallerGuard:
    failures = FailureLimit(max_failures=3, window_s=60)
    return CallerGuard(
        MetadataSettings.model_validate(settings),
        users=TokenVerifier(
            key=TokenKey("HS256", SECRET),
            section=UserSettings(),
            limit=failures,
            on_refusal=lambda _: None,
        ),
        media_key=KeyGuard(key=KEY, advice="", limit=failures, on_refusal=lambda _: None),
        public_url=public_url,
        limit=limit,
    )


def request(remote: str = "192.0.2.1", **headers: str) -> web.Request:
    pairs = {"Host": "img.example.org", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return make_mocked_request("POST", "/", headers=pairs).clone(remote=remote)


def local(**headers: str) -> web.Request:
    return request(remote="127.0.0.1", **{"Host": "localhost:8080", **headers})


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def cookie(text: str, **headers: str) -> dict[str, str]:
    return {"Cookie": f"{SESSION_COOKIE}={text}", **headers}


def test_a_user_has_the_tier_of_the_token_or_the_default_one() -> None:
    caller_of = guard().caller_of
    sent = request(**bearer(token(456)))
    assert caller_of(sent) == Caller(456, Tier.ENTERPRISE)
    assert sent[TIER] == "enterprise"
    lower = guard(default_tier="professional")
    assert lower.caller_of(request(**bearer(token()))).tier is Tier.PROFESSIONAL
    assert lower.caller_of(request(**bearer(token(tier="free")))).tier is Tier.FREE
    assert lower.caller_of(request(**bearer(token(tier="super")))).tier is Tier.ENTERPRISE


def test_a_token_with_an_unknown_tier_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Unauthorized, match=r"claim tier .* free, professional, forensic"):
        guard().caller_of(request(**bearer(token(tier="gold"))))


def test_the_media_key_is_an_administrator_of_the_highest_tier() -> None:
    caller = guard(default_tier="free").caller_of(request(**bearer(KEY)))
    assert caller == Caller(None, Tier.ENTERPRISE, is_admin=True)


def test_wrong_tokens_are_refused_and_counted() -> None:
    callers = guard()
    for _ in range(3):
        with pytest.raises(Unauthorized):
            callers.caller_of(request(**bearer("wrong")))
    with pytest.raises(TooManyFailures):
        callers.caller_of(request(**bearer("wrong")))
    assert callers.caller_of(request(**bearer(KEY))).is_admin


def test_a_request_without_a_token_is_refused_with_a_challenge() -> None:
    with pytest.raises(Unauthorized) as error:
        guard().caller_of(local())
    assert error.value.challenge.startswith("Bearer")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://img.example.org"},
        {"Origin": "https://img.example.org"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
)
def test_the_cookie_is_accepted_from_a_page_of_this_server(headers: dict[str, str]) -> None:
    found = guard().caller_of(request(**cookie(token(9), **headers)))
    assert found == Caller(9, Tier.ENTERPRISE)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "https://evil.example.org"},
        {"Origin": "https://evil.example.org", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://img.example.org.evil.example"},
        {"Origin": "https://img.example.org:8443"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_the_cookie_is_refused_from_other_pages(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthorized, match="pages of this server only"):
        guard(anonymous="everywhere").caller_of(
            request(**cookie(token(), **headers)), anonymous=True
        )


def test_with_a_public_address_only_its_pages_may_use_the_cookie() -> None:
    callers = guard(public_url="https://www.example.org/images")
    ours = cookie(token(), Origin="https://www.example.org")
    assert callers.caller_of(request(**ours)).user_id == 456
    with pytest.raises(Unauthorized):
        callers.caller_of(request(**cookie(token(), Origin="https://img.example.org")))


def test_the_cookie_never_has_the_media_key() -> None:
    with pytest.raises(Unauthorized):
        guard().caller_of(request(**cookie(KEY, Origin="http://img.example.org")))


def test_without_a_token_only_local_clients_are_anonymous_by_default() -> None:
    free = Caller(None, Tier.FREE, anonymous=True)
    callers = guard()
    assert callers.caller_of(local(), anonymous=True) == free
    for stranger in (
        request(),
        request(remote="127.0.0.1"),
        local(**{"X-Forwarded-For": "192.0.2.9"}),
        local(**{"Sec-Fetch-Site": "cross-site"}),
    ):
        with pytest.raises(Unauthorized):
            callers.caller_of(stranger, anonymous=True)
    assert guard(anonymous="everywhere").caller_of(request(), anonymous=True) == free
    with pytest.raises(Unauthorized):
        guard(anonymous="never").caller_of(local(), anonymous=True)
    with pytest.raises(Unauthorized):
        callers.caller_of(local(**bearer("wrong")), anonymous=True)


def test_an_address_may_send_a_hundred_requests_without_a_token_in_fifteen_minutes() -> None:
    now = 1000.0
    limit = RequestLimit(max_requests=100, window_s=900, clock=lambda: now)
    callers = guard(limit=limit, anonymous="everywhere")
    for _ in range(100):
        callers.caller_of(request(), anonymous=True)
    now += 800
    with pytest.raises(TooManyRequests, match="100 requests") as error:
        callers.caller_of(request(), anonymous=True)
    assert (error.value.status, error.value.code) == (429, "RATE_LIMITED")
    assert error.value.retry_after_s == 100
    assert callers.caller_of(request(remote="192.0.2.2"), anonymous=True)
    assert callers.caller_of(request(**bearer(token())), anonymous=True).user_id == 456
    now += 100
    assert callers.caller_of(request(), anonymous=True)


def test_the_addresses_that_are_counted_are_bounded() -> None:
    limit = RequestLimit(max_requests=1, window_s=900)
    for number in range(10_001):
        assert limit.add(f"{number}") == 0
    assert limit.add("10000") > 0
    assert limit.add("0") == 0, "the oldest one is forgotten"


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    with TempFolder(tmp_path / "metaextract") as folder:
        yield Engines(folder)


def receiving(
    extractor: Extractor,
    *sent: bytes,
    caller: Caller = ENTERPRISE,
    complete: bool = True,
    stall_s: float = LONG_S,
    timeout_s: float = LONG_S,
    length: int | None = None,
    **options: Any,
) -> AbstractAsyncContextManager[ReceivedForm]:
    headers = {**BOUNDED, "Content-Length": str(length or sum(map(len, sent)))}
    received = FormReceiver(extractor=extractor, stall_s=stall_s, timeout_s=timeout_s)
    body = body_request(sent, complete=complete, headers=headers)
    return received.receive(body, caller, **{"field": "file", **options})


def text(name: str, value: str) -> bytes:
    head = {"Content-Disposition": f'form-data; name="{name}"'}
    return parts(head, body=value.encode()).removesuffix(b"--b--\r\n")


def left(engines: Engines) -> Sequence[Path]:
    return list(engines.folder.path.iterdir())


async def test_a_file_is_stored_while_it_arrives_and_deleted_after_the_block(
    engines: Engines,
) -> None:
    content = JPEG * 1000
    extractor = extractor_of(engines)
    body = text("tier", "forensic") + text("sessionId", "abc") + parts(FILE, body=content)
    pieces = [body[at : at + 997] for at in range(0, len(body), 997)]
    async with receiving(extractor, *pieces, texts=("sessionId",)) as form:
        assert form.tier is Tier.FORENSIC
        assert form.texts == {"tier": "forensic", "sessionId": "abc"}
        assert (form.only.name, form.only.file.byte_size) == ("a.jpg", len(content))
        assert [path.read_bytes() for path in left(engines)] == [content]
    assert left(engines) == []
    assert extractor.statistics()["uploads"] == 0
    await extractor.aclose()


async def test_a_field_after_the_file_lowers_the_tier_too(engines: Engines) -> None:
    body = parts(FILE, body=JPEG).removesuffix(b"--b--\r\n") + text("tier", "free") + b"--b--\r\n"
    async with receiving(extractor_of(engines), body) as form:
        assert form.tier is Tier.FREE


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (text("tier", "gold") + parts(FILE, body=JPEG), RequestError, "free, professional"),
        (b"--b--\r\n", NoFile, '"file"'),
        (text("tier", "free") + b"--b--\r\n", NoFile, '"file"'),
        (parts(NOT_CHOSEN, body=b""), NoFile, '"file"'),
        (
            parts({"Content-Disposition": 'form-data; name="image"; filename="a"'}, body=JPEG),
            NoFile,
            '"file"',
        ),
        (parts(FILE, FILE, body=JPEG), RequestError, "at most 1 file"),
        (parts(FILE, body=b""), EmptyFile, "empty"),
        (parts(FILE, body=b"plain text"), UnknownImageFormat, "20\\+ formats"),
        (parts(FILE, body=JPEG)[:-9], RequestError, "malformed"),
    ],
)
async def test_a_wrong_form_is_refused_with_its_cause(
    engines: Engines, body: bytes, kind: type[Exception], message: str
) -> None:
    extractor = extractor_of(engines)
    with pytest.raises(kind, match=message):
        async with receiving(extractor, body):
            pytest.fail("it was accepted")
    assert left(engines) == []
    assert extractor.statistics()["uploads"] == 0
    await extractor.aclose()


async def test_a_body_that_is_no_form_is_refused(engines: Engines) -> None:
    received = FormReceiver(extractor=extractor_of(engines), stall_s=LONG_S, timeout_s=LONG_S)
    empty = make_mocked_request("POST", "/", headers={"Content-Length": "0"})
    json = body_request([b"{}"], headers={"Content-Type": "application/json"})
    for one, kind in ((empty, NoFile), (json, UnsupportedBody)):
        with pytest.raises(kind):
            async with received.receive(one, ENTERPRISE, field="file"):
                pytest.fail("it was accepted")


async def test_a_tier_above_that_of_the_caller_is_refused(engines: Engines) -> None:
    body = text("tier", "forensic") + parts(FILE, body=JPEG)
    with pytest.raises(TierInsufficient) as error:
        async with receiving(extractor_of(engines), body, caller=Caller(7, Tier.FREE)):
            pytest.fail("it was accepted")
    assert error.value.needs == "forensic"


async def test_a_low_tier_is_refused_before_the_body_is_read(engines: Engines) -> None:
    extractor = extractor_of(engines)
    mib = 1024 * 1024
    free, professional = Caller(7, Tier.FREE), Caller(7, Tier.PROFESSIONAL)
    for caller, options, kind in (
        (professional, {"advanced": True}, TierInsufficient),
        (free, {"length": 12 * mib}, FileTooLargeForTier),
        (ENTERPRISE, {"length": 1026 * mib}, FileTooLarge),
    ):
        with pytest.raises(kind):
            async with receiving(extractor, complete=False, caller=caller, **options):
                pytest.fail("it was accepted")


async def test_a_full_queue_is_reported_before_the_body_is_read(engines: Engines) -> None:
    extractor = extractor_of(engines, settings={"queue": 0}, processes=1)
    with extractor.admitted(), pytest.raises(ExtractionQueueFull):
        async with receiving(extractor, complete=False, length=10):
            pytest.fail("it was accepted")


async def test_a_form_that_stops_arriving_leaves_nothing(engines: Engines) -> None:
    extractor = extractor_of(engines)
    begun = parts(FILE, body=JPEG)[:100]
    limited: tuple[dict[str, Any], ...] = ({"stall_s": 0.1}, {"timeout_s": 0.1})
    for limits in limited:
        with pytest.raises(BodyTooSlow):
            async with receiving(extractor, begun, complete=False, **limits):
                pytest.fail("it was accepted")
        assert left(engines) == []


async def test_of_several_files_the_bad_ones_are_listed_and_the_others_stored(
    engines: Engines,
) -> None:
    bodies = (JPEG, b"plain text" * 1000, b"", BMP, JPEG * 9)
    body = b"".join(parts(FILE, body=one).removesuffix(b"--b--\r\n") for one in bodies)
    caller = Caller(7, Tier.FREE)
    async with receiving(
        extractor_of(engines, settings={"max_bytes_free": 1024}),
        body + parts(FILE, body=JPEG * 20),
        caller=caller,
        max_files=50,
    ) as form:
        found = [
            one.file.byte_size if isinstance(one, NamedFile) else type(one.error)
            for one in form.files
        ]
        assert found == [
            len(JPEG),
            UnknownImageFormat,
            EmptyFile,
            TierInsufficient,
            len(JPEG * 9),
            FileTooLargeForTier,
        ]
        assert isinstance(form.files[1], RefusedFile)
        assert len(left(engines)) == 2
    assert left(engines) == []


@pytest.mark.parametrize(
    ("declared", "media_type"),
    [
        ({}, ""),
        ({"Content-Type": "application/octet-stream"}, ""),
        ({"Content-Type": "image/jpeg"}, ""),
        ({"Content-Type": "image/png"}, "image/png"),
    ],
)
async def test_a_file_has_the_declared_type_if_it_is_not_that_of_the_extension(
    engines: Engines, declared: dict[str, str], media_type: str
) -> None:
    head = {"Content-Disposition": 'form-data; name="file"; filename="a.jpg"', **declared}
    async with receiving(extractor_of(engines), parts(head, body=JPEG)) as form:
        assert form.only.media_type == media_type


async def test_a_form_may_have_fifty_files(engines: Engines) -> None:
    extractor = extractor_of(engines)
    async with receiving(extractor, parts(*[FILE] * 50, body=JPEG), max_files=50) as form:
        assert len(form.files) == 50
    with pytest.raises(RequestError, match="at most 50 files"):
        async with receiving(extractor, parts(*[FILE] * 51, body=JPEG), max_files=50):
            pytest.fail("it was accepted")
    assert left(engines) == []


def test_a_name_is_shown_without_control_characters_and_not_too_long() -> None:
    assert clean_name("x\n-ver\x00.jpg") == "x-ver.jpg"
    assert clean_name("\ud800.jpg") == "?.jpg"
    assert len(clean_name("x" * 1000)) == 255


NAMES = ("tags", "limit", "hasPrompt")


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("", {}),
        ("tags=a,b&limit=5", {"tags": "a,b", "limit": "5"}),
        ("TAGS=a?b&hasprompt=", {"tags": "a?b", "hasPrompt": ""}),
        ("tags=a&utm=1&utm=2", {"tags": "a"}),
    ],
)
def test_parameters_are_read_in_any_case_and_others_are_ignored(
    query: str, values: dict[str, str]
) -> None:
    assert query_values(make_mocked_request("GET", f"/search?{query}"), NAMES) == values


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("tags=a&tags=b", "tags"),
        ("tags=a&tags=a", "tags"),
        ("tags=&limit=5&Tags=b", "tags"),
        ("limit=5&limit=", "limit"),
        ("hasprompt=true&hasPrompt=false", "hasPrompt"),
        ("tags=a&%74ags=b", "tags"),
    ],
)
def test_a_repeated_parameter_is_rejected_by_its_name(query: str, name: str) -> None:
    with pytest.raises(BadParameter, match="separate the values of a list by commas") as raised:
        query_values(make_mocked_request("GET", f"/search?{query}"), NAMES)
    assert raised.value.parameter == name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/metadata/search?tags=a&tags=b", "tags"),
        ("/api/metadata/search?mjVersion=6&mjversion=5", "mjVersion"),
        ("/api/metadata/search?limit=5&cursor=1&limit=6", "limit"),
        ("/api/extract/jobs?ids=a&ids=b", "ids"),
    ],
)
async def test_every_metadata_route_answers_400_to_a_repeated_parameter(
    keyed: Serving, path: str, name: str
) -> None:
    async with keyed.client.get(path, headers=KEYED) as answer:
        assert answer.status == 400
        body = await answer.json()
    assert body["parameter"] == name
    assert body["detail"].startswith(f"{name} must be given once")
