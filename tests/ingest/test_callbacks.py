"""Callbacks are signed, go only to hosts that are allowed, and never to a private address."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.domain.errors import BadParameter
from proxy.ingest.callbacks import SIGNATURE, Callbacks
from tests.deploy.programs import DEPLOY
from tests.readme.blocks import blocks

KEY = "k" * 32
HOSTS = ("hooks.example.org", "hooks.example.org:8443", "xn--bcher-kva.example", "127.0.0.1:8080")


def callbacks(*hosts: str) -> Callbacks:
    return Callbacks(hosts or HOSTS, KEY)


def test_the_sample_of_the_guide_accepts_a_signature_and_refuses_another() -> None:
    samples = (one for one in blocks((DEPLOY / "METADATA.md").read_text()) if one.kind == "python")
    (block,) = (one for one in samples if SIGNATURE in one.text)
    for body, genuine in ((b"{}", True), (b"[]", False)):
        names = {"hmac": hmac, "hashlib": hashlib, "key": KEY, "body": body}
        names["headers"] = {SIGNATURE: callbacks().sign(b"{}")}
        exec(block.text, names)
        assert names["genuine"] is genuine


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://hooks.example.org/a?b=c", "https://hooks.example.org/a?b=c"),
        ("https://hooks.example.org:443/", "https://hooks.example.org/"),
        ("HTTPS://HOOKS.Example.org:8443/x", "https://hooks.example.org:8443/x"),
        ("http://Bücher.example/", "http://xn--bcher-kva.example/"),
    ],
)
def test_an_address_of_an_allowed_host_is_normalised(text: str, normal: str) -> None:
    assert callbacks().check(text) == normal


@pytest.mark.parametrize(
    "text",
    [
        "https://other.example.org/",
        "https://hooks.example.org.evil.example/",
        "https://hooks.example.org./",
        "https://sub.hooks.example.org/",
        "https://hooks.example.org:444/",
        "http://hooks.example.org:443/",
        "https://user@hooks.example.org/",
        "https://:password@hooks.example.org/",
        "https://hooks.example.org@evil.example/",
        "https://hooks.example.org\\@evil.example/",
        "https://evil.example#@hooks.example.org/",
        "https://hooks.example.org/#fragment",
        "ftp://hooks.example.org/",
        "file:///etc/passwd",
        "//hooks.example.org/",
        "hooks.example.org",
        "https:///path",
        "https://hooks.example.org:99999/",
        "https://[::1/",
        "https://hooks.example.org/" + "x" * 2000,
        "",
        "http://127.1:8080/",
        "http://2130706433:8080/",
        "http://[::ffff:127.0.0.1]:8080/",
    ],
)
def test_any_other_address_is_refused(text: str) -> None:
    with pytest.raises(BadParameter, match=r"metadata\.callback_hosts"):
        callbacks().check(text)


def test_by_default_no_host_is_allowed() -> None:
    with pytest.raises(BadParameter):
        Callbacks((), KEY).check("https://hooks.example.org/")


@dataclass
class Receiver:
    """Receives callbacks on a loopback address."""

    port: int = 0
    status: int = 204
    location: str = ""
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.received.append((dict(request.headers), await request.read()))
        return web.Response(status=self.status, headers={"Location": self.location or "/"})

    @property
    def callbacks(self) -> Callbacks:
        """For this host, whose address counts as public."""
        return Callbacks((f"localhost:{self.port}",), KEY, allowed=lambda _: True)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/hook"


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", receiver.answer)
    async with TestServer(app) as server:
        receiver.port = server.port or 0
        yield receiver


async def test_the_body_is_signed_with_the_key() -> None:
    async with receiving() as receiver:
        assert await receiver.callbacks.send(receiver.url, b'{"id": "1"}') == ""
    ((headers, body),) = receiver.received
    assert body == b'{"id": "1"}'
    assert headers["Content-Type"] == "application/json"
    digest = hmac.new(KEY.encode(), body, hashlib.sha256).hexdigest()
    assert headers[SIGNATURE] == f"sha256={digest}"


async def test_a_redirect_is_not_followed() -> None:
    async with receiving() as receiver:
        receiver.status, receiver.location = 307, f"http://localhost:{receiver.port}/elsewhere"
        reason = await receiver.callbacks.send(receiver.url, b"{}")
    assert "307" in reason
    assert len(receiver.received) == 1


async def test_an_answer_that_is_no_success_is_a_failure() -> None:
    async with receiving() as receiver:
        receiver.status = 500
        assert "500" in await receiver.callbacks.send(receiver.url, b"{}")


async def test_a_host_without_an_answer_fails_at_the_time_limit() -> None:
    async with receiving() as receiver:
        allowed = receiver.callbacks.allowed
        hurried = Callbacks(receiver.callbacks.hosts, KEY, timeout_s=0.0, allowed=allowed)
        assert "did not answer" in await hurried.send(receiver.url, b"{}")


def _private() -> Iterator[str]:
    """Yield names and forms of this machine, each with an open port."""
    yield from ("localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "017700000001")
    yield from ("0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]")


@pytest.mark.parametrize("host", list(_private()))
async def test_an_allowed_host_with_a_private_address_gets_no_request(host: str) -> None:
    async with receiving() as receiver:
        own = Callbacks((f"{host}:{receiver.port}",), KEY)
        reason = await own.send(f"http://{host}:{receiver.port}/", b"{}")
    # What this machine cannot resolve is refused, too.
    assert reason
    assert receiver.received == []


async def test_a_host_that_is_no_longer_allowed_gets_no_request() -> None:
    async with receiving() as receiver:
        reason = await Callbacks((), KEY, allowed=lambda _: True).send(receiver.url, b"{}")
    assert "callback_hosts" in reason
    assert receiver.received == []
