"""Keys and tokens: which requests pass, which are rejected, for how long, with what message."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import jwt
import pytest
from aiohttp.test_utils import make_mocked_request
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.errors import AccessDisabled, AccessError, TooManyFailures, Unauthorized
from proxy.web.auth import AuthFailure, FailureLimit, KeyGuard, caller_of
from tests.support.server import Background, Library, Serve, Serving, background, make_settings
from tests.support.uploads import MAIN, PHOTO, SECRET, USERS, form, signed, token

KEY = "correct-horse-battery-staple"


class Harness:
    """A guard with a manual clock and a counter of rejections."""

    def __init__(self, key: str = KEY, *, max_failures: int = 3) -> None:
        self.now = 1000.0
        self.refused: Counter[AuthFailure] = Counter()
        self.limit = FailureLimit(max_failures=max_failures, window_s=60, clock=lambda: self.now)
        self.guard = KeyGuard(key=key, advice="set one", limit=self.limit, on_refusal=self._count)

    def _count(self, reason: AuthFailure) -> None:
        self.refused[reason] += 1

    def send(self, *lines: str, remote: str = "192.0.2.1", **headers: str) -> AccessError | None:
        """Return the error for these Authorization lines, or None if the request passes."""
        pairs = [*(("Authorization", line) for line in lines), *headers.items()]
        request = make_mocked_request("DELETE", "/", headers=pairs)
        try:
            self.guard.check(request.clone(remote=remote))
        except AccessError as error:
            return error
        return None

    def wrong(self, **where: str) -> AccessError | None:
        return self.send("Bearer wrong", **where)

    def right(self, **where: str) -> AccessError | None:
        return self.send(f"Bearer {KEY}", **where)


@pytest.mark.parametrize("line", [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER   {KEY} "])
def test_a_request_with_the_key_passes(line: str) -> None:
    assert Harness().send(line) is None


def test_a_request_without_a_key_gets_a_challenge_without_an_error_code() -> None:
    error = Harness().send()
    assert isinstance(error, Unauthorized)
    assert error.challenge == 'Bearer realm="smartserve"'


@pytest.mark.parametrize(
    "lines",
    [
        ["Bearer"],
        ["Bearer "],
        [""],
        [KEY],
        [f"Basic {KEY}"],
        [f"Bearer{KEY}"],
        [f"Bearer {KEY} {KEY}"],
        [f"Bearer {KEY},{KEY}"],
        [f"Bearer ={KEY}"],
        [f'Bearer "{KEY}"'],
        [f"Bearer {KEY}\xff"],
        [f"Bearer {KEY}", f"Bearer {KEY}"],
        [f"Bearer {KEY}", "Bearer wrong"],
    ],
)
def test_a_malformed_header_is_rejected_with_an_error_code(lines: list[str]) -> None:
    guard = Harness()
    error = guard.send(*lines)
    assert isinstance(error, Unauthorized)
    assert error.challenge.startswith('Bearer realm="smartserve", error="invalid_token", error')
    assert guard.refused == {AuthFailure.MALFORMED: 1}


@given(st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=60))
def test_no_other_text_passes(text: str) -> None:
    assert isinstance(Harness(max_failures=9).send(f"Bearer {text}"), Unauthorized) or text == KEY


@pytest.mark.parametrize(
    "near", [KEY[:-1], KEY + "x", KEY.upper(), KEY.replace("-", "_"), KEY + "="]
)
def test_a_nearly_right_key_is_rejected(near: str) -> None:
    guard = Harness()
    error = guard.send(f"Bearer {near}")
    assert isinstance(error, Unauthorized)
    assert 'error="invalid_token"' in error.challenge
    assert guard.refused == {AuthFailure.WRONG: 1}


def test_digests_of_one_length_are_compared_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    guard = Harness(max_failures=99)
    for length in (1, 16, 27, 28, 29, 4000):
        guard.send("Bearer " + "x" * length)
    assert guard.right() is None
    assert len(compared) == 7
    assert {len(side) for pair in compared for side in pair} == {32}


def test_without_a_configured_key_every_request_is_rejected() -> None:
    guard = Harness("")
    for lines in ([], ["Bearer "], [f"Bearer {KEY}"]):
        error = guard.send(*lines)
        assert isinstance(error, AccessDisabled)
        assert error.detail == "set one"
    assert guard.refused == {AuthFailure.NO_KEY_SET: 3}


def test_the_guard_does_not_store_the_key() -> None:
    guard = Harness().guard
    assert KEY not in repr({name: getattr(guard, name) for name in vars(guard)})


def test_a_right_key_is_accepted_whatever_strangers_have_sent_from_its_address() -> None:
    guard = Harness()
    through = {"remote": "127.0.0.1", "X-Forwarded-For": "198.51.100.1"}
    for _ in range(50):
        guard.wrong(**through)
        guard.wrong()
    assert guard.right(**through) is None
    assert guard.right() is None


def test_after_too_many_wrong_keys_a_wrong_key_gets_a_429() -> None:
    guard = Harness()
    assert [type(guard.wrong()) for _ in range(3)] == [Unauthorized] * 3
    guard.now += 10.5
    error = guard.wrong()
    assert isinstance(error, TooManyFailures)
    assert error.retry_after_s == 50
    assert guard.refused == {AuthFailure.WRONG: 3, AuthFailure.BLOCKED: 1}


def test_requests_during_a_block_do_not_extend_it() -> None:
    guard = Harness()
    for _ in range(3):
        guard.wrong()
    for _ in range(50):
        guard.now += 1
        assert isinstance(guard.wrong(), TooManyFailures)
    guard.now += 10
    assert guard.right() is None


def test_a_right_key_does_not_reset_the_failures_of_its_address() -> None:
    guard = Harness()
    for _ in range(2):
        guard.wrong()
    assert guard.right() is None
    guard.wrong()
    assert isinstance(guard.wrong(), TooManyFailures)


@pytest.mark.parametrize("times", [1, 100])
def test_missing_and_malformed_headers_do_not_count_as_wrong_keys(times: int) -> None:
    guard = Harness()
    for _ in range(times):
        guard.send()
        guard.send("Basic abc")
    assert guard.right() is None


def test_a_caller_without_failures_is_never_blocked() -> None:
    guard = Harness()
    for one in range(20_000):
        guard.limit.add(f"198.51.100.{one}")
    assert guard.right(remote="192.0.2.9") is None


def test_during_a_distributed_attack_one_wrong_key_blocks_its_caller() -> None:
    guard = Harness()
    for one in range(30):
        guard.wrong(remote=f"198.51.100.{one}")
    assert isinstance(guard.wrong(remote="192.0.2.9"), Unauthorized)
    assert isinstance(guard.wrong(remote="192.0.2.9"), TooManyFailures)
    guard.now += 61
    assert isinstance(guard.wrong(remote="192.0.2.9"), Unauthorized)
    assert isinstance(guard.wrong(remote="192.0.2.9"), Unauthorized), "the attack is over"


def test_at_most_ten_thousand_callers_are_remembered() -> None:
    guard = Harness()
    for one in range(12_000):
        guard.limit.add(f"198.51.100.{one}")
    assert len(guard.limit._callers) <= 10_000


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
def test_a_header_of_a_client_does_not_change_whose_failures_are_counted(header: str) -> None:
    guard = Harness()
    for number in range(3):
        guard.wrong(**{header: f"198.51.100.{number}"})
    assert isinstance(guard.wrong(**{header: "198.51.100.9"}), TooManyFailures)
    assert isinstance(guard.wrong(), TooManyFailures)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::1", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::1%eth1", True),
        ("", "/run/smartserve.sock", True),
    ],
)
def test_failures_are_counted_by_ipv4_address_or_ipv6_64(
    one: str, other: str, *, same: bool
) -> None:
    def caller(remote: str) -> str:
        return caller_of(make_mocked_request("GET", "/").clone(remote=remote))

    assert (caller(one) == caller(other)) == same


@pytest.mark.parametrize("failures", [1, 2])
def test_an_error_never_contains_the_key(failures: int) -> None:
    guard = Harness(max_failures=failures)
    guard.send(f"Bearer {KEY}x")
    error = guard.send(f"Bearer {KEY}x")
    assert error is not None
    assert KEY not in f"{error!r} {error.detail} {vars(error)}"


PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = PRIVATE.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


@pytest.fixture
def public_key(tmp_path: Path) -> str:
    path = tmp_path / "public.pem"
    path.write_bytes(PUBLIC)
    return str(path)


async def asked(server: Serving, shown: str, **headers: str) -> tuple[int, str, str]:
    """Return status, challenge and detail. An accepted user without a file gets a 400."""
    sent = {"Authorization": f"Bearer {shown}", **headers}
    async with server.client.patch("/users/me", data=form({}, bio="x"), headers=sent) as answer:
        detail = (await answer.json())["detail"]
        return answer.status, answer.headers.get("WWW-Authenticate", ""), detail


def unsigned(header: dict[str, object], claims: dict[str, object], signature: str = "") -> str:
    parts = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in (header, claims)
    )
    return ".".join((*parts, signature))


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "456"},
        {"sub": 456},
        {"sub": None, "user_id": 456},
        {"id": 456},
        {"userId": "456"},
        {"sub": "auth0|x", "id": 456, "aud": "anybody"},
    ],
)
async def test_the_user_is_the_first_claim_with_a_valid_id(
    keyed: Serving, claims: dict[str, object]
) -> None:
    assert (await asked(keyed, jwt.encode({"exp": 2**33, **claims}, SECRET)))[0] == 400


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"sub": 0},
        {"sub": -5},
        {"sub": True},
        {"sub": 4.5},
        {"sub": "4e2"},
        {"sub": "٤"},
        {"sub": "9" * 30},
        {"sub": [456]},
        {"sub": 456, "nbf": int(time.time()) + 3600},
        {"sub": 456, "exp": "soon"},
    ],
)
async def test_a_token_without_a_user_id_is_rejected(
    keyed: Serving, claims: dict[str, object]
) -> None:
    status, challenge, _ = await asked(keyed, jwt.encode({"exp": 2**33, **claims}, SECRET))
    assert status == 401
    assert 'error="invalid_token"' in challenge


async def test_small_clock_differences_are_tolerated(keyed: Serving) -> None:
    now = int(time.time())
    assert (await asked(keyed, token(exp=now - 10, iat=now + 10, nbf=now + 10)))[0] == 400


async def test_an_expired_token_is_rejected_with_the_reason(keyed: Serving) -> None:
    before = keyed.metric("smartserve_auth_failures_total", reason="expired")
    status, challenge, detail = await asked(keyed, token(exp=int(time.time()) - 60))
    assert (status, detail) == (401, "the token has expired; request a new one")
    assert "invalid_token" in challenge
    assert keyed.metric("smartserve_auth_failures_total", reason="expired") == before + 1


@pytest.mark.parametrize(
    "shown",
    [
        "x",
        "a.b.c",
        token(secret="another secret of thirty-two bytes!!"),
        token()[:-4] + "AAAA",
        unsigned({"alg": "none"}, {"sub": "456"}),
        unsigned({"alg": "None", "typ": "JWT"}, {"sub": "456"}),
        unsigned({"alg": "HS256"}, {"sub": "456"}),
        jwt.encode({"sub": "456"}, SECRET * 2, algorithm="HS512"),
        jwt.encode({"sub": "456"}, PRIVATE, algorithm="RS256"),
        unsigned({"alg": "HS256", "b64": False, "crit": ["b64"]}, {"sub": "456"}, "AAAA"),
        "e30." + "A" * 7000 + ".e30",
    ],
)
async def test_a_token_with_another_signature_is_rejected(keyed: Serving, shown: str) -> None:
    assert (await asked(keyed, shown))[0] == 401


async def test_a_missing_token_is_answered_with_a_challenge(keyed: Serving) -> None:
    async with keyed.client.patch("/users/me", data=form({"profile_image": PHOTO})) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="smartserve"'
        assert (await answer.json())["detail"] == (
            "the token is missing: send the header Authorization: Bearer TOKEN"
        )


async def test_with_a_public_key_only_its_private_key_signs(serve: Serve, public_key: str) -> None:
    """A server that used the public key as an HMAC secret would accept a token signed with it."""
    server = await serve(users={"jwt_public_key_file": public_key})
    good = jwt.encode({"sub": "456", "exp": 2**33}, PRIVATE, algorithm="RS256")
    assert (await asked(server, good))[0] == 400
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    confused = _signed_with_text({"sub": "456"}, PUBLIC)
    for shown in (
        jwt.encode({"sub": "456"}, other, algorithm="RS256"),
        jwt.encode({"sub": "456"}, PRIVATE, algorithm="RS512"),
        confused,
        token(),
    ):
        assert (await asked(server, shown))[0] == 401


def _signed_with_text(claims: dict[str, object], text: bytes) -> str:
    """Sign as HS256 with a public key as the secret, which PyJWT itself refuses."""
    body = unsigned({"alg": "HS256", "typ": "JWT"}, claims)[:-1]
    digest = hmac.new(text, body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


async def test_a_token_without_an_end_is_rejected_unless_a_setting_allows_it(serve: Serve) -> None:
    endless = jwt.encode({"sub": "4"}, SECRET, algorithm="HS256")
    status, _, detail = await asked(await serve(users=USERS), endless)
    assert (status, "no claim exp" in detail) == (401, True)
    allowing = await serve(users={**USERS, "jwt_require_exp": False})
    assert (await asked(allowing, endless))[0] == 400


async def test_configured_issuer_and_audience_are_required(serve: Serve) -> None:
    server = await serve(users={**USERS, "jwt_issuer": "me", "jwt_audience": "pictures"})
    assert (await asked(server, token(iss="me", aud="pictures")))[0] == 400
    assert (await asked(server, token(iss="me", aud=["x", "pictures"])))[0] == 400
    for claims in ({}, {"iss": "me"}, {"aud": "pictures"}, {"iss": "you", "aud": "pictures"}):
        assert (await asked(server, token(**claims)))[0] == 401


@pytest.mark.parametrize(
    ("proxies", "statuses"),
    [
        # Behind a trusted proxy each client has failures of its own.
        (["127.0.0.1"], [401, 401, 401, 429, 401]),
        # Otherwise the header is ignored: a direct client cannot choose whose failures count.
        (["192.0.2.1"], [401, 401, 401, 429, 429]),
    ],
)
async def test_wrong_tokens_are_counted_by_the_address_that_a_trusted_proxy_reports(
    proxies: list[str], statuses: list[int], serve: Serve
) -> None:
    limits = {"max_failures": 3}
    server = await serve(users=USERS, admin=limits, server={"trusted_proxies": proxies})
    clients = ["198.51.100.1"] * 4 + ["198.51.100.2"]
    found = [(await asked(server, "wrong", **{"X-Forwarded-For": one}))[0] for one in clients]
    assert found == statuses
    for one in clients:
        passed = await asked(server, token(), **{"X-Forwarded-For": one})
        assert passed[0] == 400, "a valid token is accepted during a block"


@pytest.mark.parametrize(
    ("proxies", "statuses"),
    [(["127.0.0.1"], [401, 401, 401, 429, 401]), (["192.0.2.1"], [401, 401, 401, 429, 429])],
)
async def test_wrong_keys_are_counted_by_the_address_that_a_trusted_proxy_reports(
    proxies: list[str], statuses: list[int], serve: Serve
) -> None:
    section = {"key": KEY, "max_failures": 3}
    server = await serve(admin=section, server={"trusted_proxies": proxies})

    async def purge(key: str, client: str) -> int:
        # The client's own entry is left of the one that the proxy appends.
        headers = {"Authorization": f"Bearer {key}", "X-Forwarded-For": f"192.0.2.9, {client}"}
        async with server.client.delete("/api/media/1/renditions", headers=headers) as answer:
            return answer.status

    clients = ["198.51.100.1"] * 4 + ["198.51.100.2"]
    assert [await purge("wrong", one) for one in clients] == statuses
    assert [await purge(KEY, one) for one in clients] == [200] * 5, "a right key is never refused"


async def test_the_media_key_is_not_accepted_as_a_token(keyed: Serving) -> None:
    assert (await asked(keyed, MAIN["key"]))[0] == 401
    async with keyed.client.get("/api/media/pending/all", headers=signed()) as answer:
        assert answer.status == 401


@pytest.fixture(scope="module")
def proxied(
    library: Library, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Background]]:
    """Returns a server that trusts the proxy with an address; one for each address."""
    with ExitStack() as stack:

        @cache
        def start(proxy: str) -> Background:
            data_dir = library.copy(tmp_path_factory.mktemp("proxied") / "data")
            server = {"trusted_proxies": [proxy]}
            return stack.enter_context(
                background(make_settings(data_dir, users=USERS, server=server))
            )

        yield start


@pytest.mark.parametrize(
    ("proxy", "header", "told"),
    [
        ("127.0.0.1", {}, "missing"),
        ("127.0.0.1", {"X-Forwarded-For": "192.0.2.1"}, "used"),
        ("127.0.0.1", {"X-Forwarded-For": "unknown"}, "ignored"),
        ("127.0.0.1", {"Forwarded": "for=192.0.2.1"}, "ignored"),
        ("192.0.2.1", {"X-Forwarded-For": "192.0.2.1"}, "ignored"),
        ("192.0.2.1", {"Via": "1.1 x"}, "ignored"),
    ],
)
async def test_a_401_says_whether_the_address_that_a_proxy_reports_is_used(
    proxied: Callable[[str], Background], proxy: str, header: dict[str, str], told: str
) -> None:
    async with (
        proxied(proxy).serving() as server,
        server.client.patch("/users/me", headers=header) as answer,
    ):
        assert answer.status == 401
        assert (await answer.json())["forwarded"] == told
