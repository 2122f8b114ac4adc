"""Tokens of users, over HTTP."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.server import Serve, Serving
from tests.support.uploads import PHOTO, SECRET, USERS, form, signed, token

PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = PRIVATE.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


@pytest.fixture
async def server(serve: Serve) -> Serving:
    return await serve(users=USERS, admin={"max_failures": 10_000})


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
    server: Serving, claims: dict[str, object]
) -> None:
    assert (await asked(server, jwt.encode(claims, SECRET)))[0] == 400


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
    server: Serving, claims: dict[str, object]
) -> None:
    status, challenge, _ = await asked(server, jwt.encode(claims, SECRET))
    assert status == 401
    assert 'error="invalid_token"' in challenge


async def test_small_clock_differences_are_tolerated(server: Serving) -> None:
    now = int(time.time())
    assert (await asked(server, token(exp=now - 10, iat=now + 10, nbf=now + 10)))[0] == 400


async def test_an_expired_token_is_rejected_with_the_reason(server: Serving) -> None:
    status, challenge, detail = await asked(server, token(exp=int(time.time()) - 60))
    assert (status, detail) == (401, "the token has expired; request a new one")
    assert "invalid_token" in challenge
    assert server.metric("smartserve_auth_failures_total", reason="expired") == 1


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
async def test_a_token_with_another_signature_is_rejected(server: Serving, shown: str) -> None:
    assert (await asked(server, shown))[0] == 401


async def test_a_missing_token_is_answered_with_a_challenge(server: Serving) -> None:
    async with server.client.patch("/users/me", data=form({"profile_image": PHOTO})) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="smartserve"'
        assert (await answer.json())["detail"] == (
            "the token is missing: send the header Authorization: Bearer TOKEN"
        )


async def test_with_a_public_key_only_its_private_key_signs(serve: Serve, public_key: str) -> None:
    """A server that used the public key as an HMAC secret would accept a token signed with it."""
    server = await serve(users={"jwt_public_key_file": public_key})
    good = jwt.encode({"sub": "456"}, PRIVATE, algorithm="RS256")
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
    import hashlib  # noqa: PLC0415
    import hmac  # noqa: PLC0415

    body = unsigned({"alg": "HS256", "typ": "JWT"}, claims)[:-1]
    digest = hmac.new(text, body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


async def test_configured_issuer_and_audience_are_required(serve: Serve) -> None:
    server = await serve(users={**USERS, "jwt_issuer": "me", "jwt_audience": "pictures"})
    assert (await asked(server, token(iss="me", aud="pictures")))[0] == 400
    assert (await asked(server, token(iss="me", aud=["x", "pictures"])))[0] == 400
    for claims in ({}, {"iss": "me"}, {"aud": "pictures"}, {"iss": "you", "aud": "pictures"}):
        assert (await asked(server, token(**claims)))[0] == 401


async def test_wrong_tokens_block_direct_clients_but_not_those_behind_a_proxy(serve: Serve) -> None:
    server = await serve(users=USERS, admin={"max_failures": 3})
    passed_on = {"X-Forwarded-For": "192.0.2.1"}
    for _ in range(5):
        assert (await asked(server, "wrong", **passed_on))[0] == 401
    assert (await asked(server, token(), **passed_on))[0] == 400
    statuses = [(await asked(server, "wrong"))[0] for _ in range(4)]
    assert statuses == [401, 401, 401, 429]
    assert (await asked(server, token()))[0] == 429
    assert (await asked(server, token(), **passed_on))[0] == 400


async def test_the_media_key_is_not_accepted_as_a_token(serve: Serve) -> None:
    server = await serve(users=USERS, main={"key": "k" * 32})
    assert (await asked(server, "k" * 32))[0] == 401
    async with server.client.get("/api/media/pending/all", headers=signed()) as answer:
        assert answer.status == 401


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
async def test_a_401_says_whether_a_proxy_forwarded_the_request(
    header: str, server: Serving
) -> None:
    told = []
    for headers in ({}, {header: "192.0.2.1"}):
        async with server.client.patch("/users/me", headers=headers) as answer:
            assert answer.status == 401
            told.append((await answer.json())["forwarded"])
    assert told == [False, True]
