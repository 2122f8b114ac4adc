"""A crowd's answers are all counted with their status, and an incomplete one is no answer."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.benchmarks.client import Connection, all_at_once
from tests.benchmarks.servers import Address, Unmeasurable

CUT, CLOSED = "/cut", "/closed"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == CLOSED:
            self.close_connection = True
            return
        number = self.path.removeprefix("/")
        body = number.encode()
        self.send_response(503 if number.endswith("3") else 200)
        self.send_header("Content-Length", str(len(body) + (self.path == CUT)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def listening() -> Iterator[Address]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield "127.0.0.1", server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_a_crowd_is_answered_in_order_whatever_the_status() -> None:
    with listening() as address:
        seconds, answers = all_at_once(address, [f"/{number}" for number in range(30)])
    assert [answer.body for answer in answers] == [b"%d" % number for number in range(30)]
    assert Counter(answer.status for answer in answers) == {200: 27, 503: 3}
    assert seconds == max(answer.last_byte_s for answer in answers)


@pytest.mark.parametrize("target", [CUT, CLOSED])
def test_an_incomplete_answer_to_a_crowd_is_a_failure(target: str) -> None:
    with listening() as address, pytest.raises(Unmeasurable):
        all_at_once(address, ["/1", target])


def test_a_connection_returns_each_answer_with_its_times() -> None:
    with listening() as address, Connection(address) as connection:
        answer = connection.get("/1234")
    assert (answer.status, answer.body) == (200, b"1234")
    assert 0 < answer.first_byte_s <= answer.last_byte_s
