"""Row 10: text of a request cannot break out of a header, a log line or a metric."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing

import pytest
from prometheus_client import parser

from tests.faults.conftest import Launch
from tests.faults.server import Server
from tests.faults.table import Figure, Record
from tests.support.server import Library
from tests.web.wire import answers, exchange

pytestmark = pytest.mark.slow

_TEXTS = [
    b"%0d%0aSet-Cookie:%20injected=1",
    b"%0aInjected:%20yes",
    b"\xc4\x8d\xc4\x8aInjected: yes",
    b"%E5%98%8D%E5%98%8AInjected:yes",
    b"%00injected",
    b"%1b%5b31minjected",
    b"\x1b[31minjected",
    b'"injected":"yes","level":"error',
    b"%22%7d%0a%7b%22event%22:%22injected%22",
    b"'injected;--",
    b"${jndi:ldap://injected}",
    b"{{injected}}",
    b"<script>injected</script>",
    "injected\u2028\u202e\U0001f6a2".encode(),
    b"injected\r\nInjected: yes",
    b"injected\0",
    b"\xff\xfeinjected",
]
_PLACES = [
    b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /serve/%b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /serve/1?size=%b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /serve/1?%b=1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /serve/1?w=64&v=%b HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /serve/1?w=64 HTTP/1.1\r\nHost: x\r\nAccept: %b\r\n\r\n",
    b"GET /serve/1?w=64 HTTP/1.1\r\nHost: x\r\nIf-None-Match: %b\r\n\r\n",
    b"GET /serve/1?w=64 HTTP/1.1\r\nHost: x\r\nRange: bytes=%b\r\n\r\n",
    b"GET /serve/1?w=64 HTTP/1.1\r\nHost: x\r\nX-Request-Id: %b\r\n\r\n",
    b"GET /serve/1?w=64 HTTP/1.1\r\nHost: %b\r\n\r\n",
    b"GET /serve/1?w=64 HTTP/1.1\r\nHost: x\r\nUser-Agent: %b\r\n\r\n",
    b"GET /serve/1?w=64 HTTP/1.1\r\nHost: x\r\n%b: y\r\n\r\n",
    b"%b /serve/1 HTTP/1.1\r\nHost: x\r\n\r\n",
]
_NAMES = [
    "../../etc/pass\r\nInjected: yes",
    'a"; injected="x',
    "\x1b[31m\0\u202einjected.jpg",
    "🚢",
]
_LABEL = re.compile(r"[A-Za-z0-9_.+: -]{1,60}")


def stray_output(server: Server) -> list[str]:
    """Return output that is neither the address nor one complete JSON object per line."""
    found = []
    for line in server.output().split("\n"):
        if not line or re.fullmatch(r"(smartserve \S+ on |  )http://[0-9.:]+\S*", line):
            continue
        try:
            event = json.loads(line)
        except ValueError:
            found.append(line)
            continue
        if not isinstance(event, dict) or event.get("event") == "injected":
            found.append(line)
    return found


async def test_text_of_a_request_cannot_break_out_of_its_place(
    launch: Launch, library: Library, record: Record
) -> None:
    server = await launch()
    async with server.client() as client:
        # Rendered before, so that no response is streamed and none is chunked.
        for target in ("/serve/1?w=64", "/serve/1"):
            await (await client.get(target)).read()
    lost = times = 0
    for place in _PLACES:
        for text in _TEXTS:
            sent = place.replace(b"%b", text).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            (answer,) = answers(await exchange("127.0.0.1", server.port, sent, pause_s=0))
            found = repr(answer.headers) + (repr(answer.body) if answer.status >= 400 else "")
            lost += "injected" in found.lower() or answer.status >= 500
            times += 1
    assert lost == 0
    async with server.client() as client, client.get("/metrics") as metrics:
        exposed = await metrics.text()
    for family in parser.text_string_to_metric_families(exposed):
        for sample in family.samples:
            for value in sample.labels.values():
                assert _LABEL.fullmatch(value), sample
                assert "injected" not in value.lower()
    await server.stop()
    assert stray_output(server) == []
    assert server.output().count('"event":"request"') >= times
    record(Figure(10, f"{len(_TEXTS)} texts in {len(_PLACES)} places of a request", times, lost))


async def test_the_name_of_an_upload_cannot_break_out_of_a_header(
    launch: Launch, library: Library, record: Record
) -> None:
    server = await launch({"database": {"row_ttl_s": 0}})
    lost = 0
    for name in _NAMES:
        with closing(sqlite3.connect(server.data_dir / "smartserve.db")) as database, database:
            database.execute(
                "UPDATE media_files SET original_name = ? WHERE id = ?",
                (name, library.ids["photo"]),
            )
        sent = f"GET /serve/{library.ids['photo']}?w=64 HTTP/1.1\r\nHost: x\r\nConnection: close"
        (answer,) = answers(
            await exchange("127.0.0.1", server.port, f"{sent}\r\n\r\n".encode(), pause_s=0)
        )
        value = answer.headers["content-disposition"]
        lost += answer.status != 200 or "injected" in answer.headers
        assert re.fullmatch(
            r'inline; filename="[A-Za-z0-9._-]+"(; filename\*=UTF-8\'\'[A-Za-z0-9%._~-]+)?', value
        ), value
    assert lost == 0
    record(Figure(10, "names of uploads in Content-Disposition", len(_NAMES), lost))
