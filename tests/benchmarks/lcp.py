"""Largest Contentful Paint of `<smart-image>` relative to a plain `<img>`, at 150 ms latency.

Chromium delays each request by the latency. Every visit has a profile of its own, so nothing is in
the browser's cache unless the row says so. The server has the image in memory.
"""

from __future__ import annotations

import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from tests.benchmarks.report import Comparison, Row, Table
from tests.benchmarks.servers import program, smartserve
from tests.benchmarks.turns import in_turns
from tests.page.conftest import QUIET

LIMIT = 1.15
"""Of the LCP of a plain ``<img>`` (issue 13, line 7)."""
LATENCY_MS = 150
TURNS = 9

_BYTES_PER_S = 1_250_000
_VIEWPORT = ViewportSize(width=800, height=600)
_ACCEPT = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
_SETTLED_MS = 60_000
_SCRIPT = '<script type="module" src="{base}/static/smart-image.js"></script>'
_SHAPE = 'width="768" height="512" alt="Caps"'
_IMG = f'<img src="{{base}}/serve/2?w=828" {_SHAPE}>'
_ALONE = f'<smart-image media-id="2" {_SHAPE} priority></smart-image>'
_WARM = "warm"
"""Another page of the site: the script without an image."""
_LCP = """new Promise((resolve) => new PerformanceObserver((list) => {
  const last = list.getEntries().at(-1);
  if (last.url.includes("/serve/2")) resolve(last.startTime);
}).observe({ type: "largest-contentful-paint", buffered: true }))"""


@dataclass(frozen=True, slots=True)
class Form:
    """One way to embed an image."""

    name: str
    body: str
    cached: bool = False
    """Whether the browser has the script from an earlier page."""
    limit: float | None = LIMIT


PLAIN = Form("plain <img>", _IMG, limit=None)
FORMS = (
    PLAIN,
    Form(
        "<smart-image> with an <img> inside",
        _SCRIPT + f"<smart-image media-id=2>{_IMG}</smart-image>",
    ),
    Form("<smart-image>, script in the browser's cache", _SCRIPT + _ALONE, cached=True),
    Form("<smart-image>, first visit", _SCRIPT + _ALONE, limit=None),
)


def measure() -> Table:
    """Visit a page of another origin with each form, in turns."""
    with (
        tempfile.TemporaryDirectory() as folder,
        smartserve(Path(folder) / "data", "--samples") as site,
        sync_playwright() as playwright,
    ):
        base = f"http://127.0.0.1:{site.address[1]}"
        _render(f"{base}/serve/2?w=828")
        browser = playwright.chromium.launch(executable_path=program("chromium"), args=list(QUIET))
        bodies = {_WARM: _SCRIPT, **{form.name: form.body for form in FORMS}}
        with _pages({name: body.format(base=base) for name, body in bodies.items()}) as urls:
            found = in_turns(
                {form.name: _contestant(browser, urls, form) for form in FORMS}, turns=TURNS
            )
        version = browser.version
        browser.close()
    rows = [
        Row(form.name, found[form.name], yardstick=found[PLAIN.name], limit=form.limit)
        for form in FORMS
    ]
    return Table(
        f"Largest Contentful Paint in ms; a photograph of 768 x 512, {LATENCY_MS} ms latency for"
        f" each request and {_BYTES_PER_S * 8 / 1e6:g} Mbit/s, {TURNS} turns",
        rows,
        [
            f"Chromium {version}; page and images of two origins; HTTP/1.1 without TLS.",
            "On a first visit the component alone needs one round trip more, for the script.",
        ],
        compared=[
            Comparison(
                f"LCP in ms, {form.name.replace('<', '`<').replace('>', '>`')}",
                "plain `<img>`",
                found[form.name],
                found[PLAIN.name],
                low=True,
            )
            for form in FORMS
            if form is not PLAIN
        ],
    )


def _render(url: str) -> None:
    """Have the server render the image, and keep it in memory."""
    for _ in range(2):
        request = urllib.request.Request(url, headers={"Accept": _ACCEPT})
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()


@contextmanager
def _pages(bodies: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Serve a page for each name, and yield their URLs."""
    paths = {f"/{at}": body for at, body in enumerate(bodies.values())}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = f"<!doctype html><link rel=icon href=data:,>{paths[self.path]}".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        origin = f"http://127.0.0.1:{server.server_port}"
        yield dict(zip(bodies, (origin + path for path in paths), strict=True))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _contestant(browser: Browser, urls: Mapping[str, str], form: Form) -> Callable[[int], float]:
    return lambda _turn: _visit(browser, urls, form)


def _visit(browser: Browser, urls: Mapping[str, str], form: Form) -> float:
    """Return the LCP of one visit in ms."""
    context = browser.new_context(viewport=_VIEWPORT)
    try:
        page = context.new_page()
        page.set_default_timeout(_SETTLED_MS)
        if form.cached:
            page.goto(urls[_WARM])
            page.wait_for_load_state("networkidle")
            page.goto("about:blank")
        _slow_down(page)
        page.goto(urls[form.name])
        found: float = page.evaluate(_LCP)
        return found
    finally:
        context.close()


def _slow_down(page: Page) -> None:
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send(
        "Network.emulateNetworkConditions",
        {
            "offline": False,
            "latency": LATENCY_MS,
            "downloadThroughput": _BYTES_PER_S,
            "uploadThroughput": _BYTES_PER_S,
        },
    )
