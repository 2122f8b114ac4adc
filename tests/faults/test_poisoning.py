"""Row 8: no request header affects the response to another client, or the cache key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import Launch
from tests.faults.server import Server
from tests.faults.table import Figure, Record
from tests.support.server import Library
from tests.support.waiting import eventually
from tests.web.wire import Told, answers, exchange

pytestmark = pytest.mark.slow

_MARK = "poison"
_OTHERS = [
    *("Host", "X-Forwarded-Host", "X-Forwarded-Server", "X-Host", "X-HTTP-Host-Override"),
    *("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Scheme", "X-Forwarded-Port"),
    *("X-Forwarded-Prefix", "Forwarded", "X-Real-IP", "True-Client-IP", "Via", "X-ProxyUser-Ip"),
    *("X-Original-URL", "X-Rewrite-URL", "X-Original-Host", "X-Accel-Redirect", "X-Sendfile"),
    *("X-HTTP-Method", "X-HTTP-Method-Override", "X-Method-Override", "X-Override-Format"),
    *("Cookie", "Authorization", "Proxy-Authorization", "Origin", "Referer", "User-Agent"),
    *("Accept-Language", "Accept-Encoding", "Accept-Charset", "Width", "DPR", "Viewport-Width"),
    *("Sec-CH-DPR", "Sec-CH-Width", "Save-Data", "Cache-Control", "Pragma", "Content-Type"),
    *("X-Request-Id", "Traceparent", "Front-End-Https", "X-Wap-Profile", "Transfer", "TE"),
]
_VALUES = {
    "Host": f"{_MARK}.example",
    "X-HTTP-Method": "DELETE",
    "X-HTTP-Method-Override": "POST",
    "X-Method-Override": "PUT",
    "X-Original-URL": f"/{_MARK}",
    "X-Rewrite-URL": f"/healthz?{_MARK}",
    "Forwarded": f"for={_MARK};host={_MARK}.example;proto=https",
    "Width": "64",
    "DPR": "3",
    "Sec-CH-DPR": "3",
    "Save-Data": "on",
    "Cache-Control": "no-cache",
}
_OWN_EACH_TIME = frozenset(("date", "x-request-id", "server-timing", "cache-status", "connection"))


def essence(answer: Told) -> tuple[int, dict[str, str], bytes]:
    """Return a response without the parts that differ each time."""
    kept = {name: value for name, value in answer.headers.items() if name not in _OWN_EACH_TIME}
    return answer.status, kept, answer.body


async def asked(server: Server, target: str, headers: dict[str, str]) -> Told:
    lines = [f"{name}: {value}" for name, value in ({"Host": "x"} | headers).items()]
    request = "\r\n".join([f"GET {target} HTTP/1.1", *lines, "Connection: close", "", ""])
    (answer,) = answers(await exchange("127.0.0.1", server.port, request.encode(), pause_s=0))
    return answer


def files(directory: Path) -> set[Path]:
    return {path for path in (directory / "renditions").rglob("*.*") if path.is_file()}


async def settled_files(directory: Path) -> set[Path]:
    """Return the files when no write is in progress: responses are sent before they are stored."""
    await eventually(
        lambda: not any(path.parent.name == "tmp" for path in files(directory)), timeout_s=10
    )
    return files(directory)


async def test_no_header_affects_another_response_or_the_key(
    launch: Launch, library: Library, record: Record
) -> None:
    """Each header alone and all of them together, on a miss, on hits and on an error.

    The poisoned request comes first, when it would fill the cache.
    """
    server = await launch()
    poison = {name: _VALUES.get(name, _MARK) for name in _OTHERS}
    ways = [poison, *({name: value} for name, value in poison.items())]
    targets = [f"/serve/{library.ids['photo']}?w=64&format=jpeg", "/serve/999999"]
    first = f"/serve/{library.ids['photo']}?w=96&format=webp"
    poisoned = await asked(server, first, poison)
    assert essence(poisoned) == essence(await asked(server, first, {}))
    clean = {target: essence(await asked(server, target, {})) for target in targets}
    # Stored after the responses: the first image and that of the targets.
    await eventually(lambda: len(files(server.data_dir)) == 2)
    before = await settled_files(server.data_dir)
    lost = times = 0
    for target in targets:
        for headers in ways:
            answer = await asked(server, target, headers)
            shown = repr(essence(answer)[:2]) + repr(answer.body[:200])
            lost += essence(answer) != clean[target] or _MARK in shown
            times += 1
    assert lost == 0
    assert await settled_files(server.data_dir) == before
    record(Figure(8, f"requests with {len(poison)} headers, each alone and all", times, lost))


async def test_a_range_does_not_affect_the_key(launch: Launch, library: Library) -> None:
    """After a request for a range, later clients receive the whole image."""
    server = await launch()
    target = f"/serve/{library.ids['photo']}?w=64&format=jpeg"
    part = await asked(server, target, {"Range": "bytes=2-9"})
    whole = await asked(server, target, {})
    assert whole.status == 200
    assert part.headers["etag"] == whole.headers["etag"]
    assert part.body in (whole.body, whole.body[2:10])
    part = await asked(server, target, {"Range": "bytes=2-9"})
    assert (part.status, part.body) == (206, whole.body[2:10])
    # Stored after the response.
    await eventually(lambda: files(server.data_dir))
    assert len(await settled_files(server.data_dir)) == 1
