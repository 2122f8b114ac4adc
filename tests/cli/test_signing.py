"""``smartserve sign``."""

from __future__ import annotations

import json
import time

import pytest

from proxy.domain.request import parse_request
from proxy.domain.signature import Scope, UrlKeys, original_text, read_signature
from proxy.settings import Settings
from tests.cli.conftest import Invoke

KEY = "k" * 32
ENVIRONMENT = {"SMARTSERVE_ACCESS__KEYS": json.dumps({"a": KEY})}
KEYS = UrlKeys({"a": KEY})


def opened(url: str, media_id: int = 7, extension: str | None = None) -> bool:
    query = url.partition("?")[2]
    request = parse_request(query, sizes=Settings().size_specs(), extension=extension)
    return KEYS.refusal(Scope.RENDITION, media_id, request.signature, now=time.time()) is None


def test_an_id_becomes_a_signed_address(invoke: Invoke) -> None:
    done = invoke(
        *("sign", "7", "--size", "thumbnail", "--format", "webp", "--bg", "removed"),
        **ENVIRONMENT,
        SMARTSERVE_SERVER__PUBLIC_URL="https://img.example.org",
    )
    assert done.code == 0, done.stderr
    url = done.stdout.strip()
    assert url.startswith("https://img.example.org/serve/7?size=thumbnail&format=webp&bg=removed&")
    assert opened(url)
    assert "valid for 3600 seconds" in done.stderr or "valid for 60 minutes" in done.stderr
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("url", "options", "begins", "extension"),
    [
        ("https://h/x/serve/7.webp?v=1", [], "https://h/x/serve/7.webp?v=1&exp=", "webp"),
        ("/api/images/7?size=detail", ["--size", "zoom"], "/api/images/7?size=detail&size=", None),
        ("/serve/7?exp=1&kid=x&sig=y&w=100", ["--dpr", "2"], "/serve/7?w=100&dpr=2&exp=", None),
    ],
)
def test_an_address_keeps_its_form(
    invoke: Invoke, url: str, options: list[str], begins: str, extension: str | None
) -> None:
    done = invoke("sign", url, *options, **ENVIRONMENT)
    assert done.code == 0, done.stderr
    assert done.stdout.startswith(begins)
    assert opened(done.stdout.strip(), extension=extension)


def test_the_original_has_an_address_of_its_own(invoke: Invoke) -> None:
    done = invoke("sign", "7", "--original", "--metadata", "stripped", "--json", **ENVIRONMENT)
    found = json.loads(done.stdout)
    path, _, query = found["url"].partition("?")
    assert path.endswith("/api/media/7/original")
    values = dict(one.split("=") for one in query.split("&"))
    signature = read_signature(values, query, original_text(metadata="stripped"))
    assert KEYS.refusal(Scope.ORIGINAL, 7, signature, now=time.time()) is None
    assert found["expires"] - time.time() <= found["expires_in"] == 3600


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["7", "--size", "huge"], "--size"),
        (["7", "--format", "bmp"], "--format"),
        (["7", "--expires", "12hours"], "--expires"),
        (["7", "--expires", "0s"], "--expires"),
        (["7", "--expires", "30d"], "access.max_ttl_s"),
        (["7", "--original", "--size", "thumbnail"], "--size"),
        (["7", "--metadata", "kept"], "--metadata"),
        (["7", "--original", "--metadata", "some"], "--metadata"),
        (["seven"], "URL|ID"),
        (["/info/7"], "URL|ID"),
        (["9999999999999999999"], "URL|ID"),
    ],
)
def test_what_cannot_be_signed_is_named(invoke: Invoke, arguments: list[str], text: str) -> None:
    done = invoke("sign", *arguments, **ENVIRONMENT)
    assert done.code == 2
    assert text in done.stderr
    assert done.stdout == ""


def test_without_a_key_the_setting_is_named(invoke: Invoke) -> None:
    done = invoke("sign", "7")
    assert done.code == 2
    assert "SMARTSERVE_ACCESS__KEYS" in done.stderr


def test_the_validity_can_be_chosen(invoke: Invoke) -> None:
    done = invoke("sign", "7", "--expires", "2h", **ENVIRONMENT)
    expires = int(done.stdout.partition("exp=")[2].partition("&")[0])
    assert 7000 < expires - time.time() <= 7200
    assert "valid for 2 hours, until 2" in done.stderr
