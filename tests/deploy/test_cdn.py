"""The CDN recipes: edge functions under Node, compared with the negotiation and a live server."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

from proxy.web.request_input import wants_less
from tests.deploy.accepts import BROWSERS, CORNERS, SENT, faults, random_headers
from tests.deploy.origin import Origin
from tests.deploy.programs import DEPLOY, program, replaced
from tests.deploy.test_nginx_cache import BROWSERS as FOUR
from tests.faults.responses import fetch
from tests.support.server import CHROME, Library

FOLDER = DEPLOY / "cdn"
FILES = {
    "cloudflare": FOLDER / "cloudflare" / "worker.js",
    "cloudfront": FOLDER / "cloudfront" / "function.js",
    "bunny": FOLDER / "bunny" / "script.js",
}
WITH_URLS = ("cloudflare", "bunny")
_SDK = """
const hooks = [];
globalThis.bunnyHooks = hooks;
const zone = {
    onClientRequest: () => (hooks.push('onClientRequest'), zone),
    onOriginResponse: () => (hooks.push('onOriginResponse'), zone),
};
export const net = {http: {servePullZone: () => zone}};
"""
"""Replaces Bunny's SDK, which exists at Bunny only: stores the hooks and runs none."""


class Edge:
    """Runs edge functions under Node."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.hints = False
        """Whether client hints are enabled in the functions."""
        sdk = folder / "node_modules" / "@bunny.net" / "edgescript-sdk"
        sdk.mkdir(parents=True)
        (sdk / "index.mjs").write_text(_SDK)
        (sdk / "package.json").write_text('{"exports": "./index.mjs"}')

    def run(self, kind: str, **asked: object) -> dict[str, Any]:
        """Return the results of requests, as tests/deploy/edge.mjs prints them."""
        name = f"{kind}.js" if kind == "cloudfront" else f"{kind}.mjs"
        file = Path(shutil.copy(FILES[kind], self._folder / name))
        if self.hints:
            text = FILES[kind].read_text()
            file.write_text(replaced(text, "var HINTS = false;", "var HINTS = true;"))
        done = subprocess.run(
            [program("node"), Path(__file__).with_name("edge.mjs"), kind, file],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def forwarded(self, kind: str, url: str, accept: str, **headers: str) -> dict[str, Any]:
        """Return the request that is forwarded to the cache and the server."""
        request = {"url": url, "method": "GET", "headers": {"Accept": accept, **headers}}
        (answer,) = self.run(kind, requests=[request])["requests"]
        return dict(answer)


@pytest.fixture
def edge(tmp_path: Path) -> Edge:
    return Edge(tmp_path)


@pytest.mark.parametrize("kind", FILES)
def test_each_header_is_classified_as_the_server_negotiates(kind: str, edge: Edge) -> None:
    accepts = [*BROWSERS, *CORNERS, *random_headers(600), ""]
    classes = edge.run(kind, accepts=accepts)["classes"]
    assert faults(list(zip(accepts, classes, strict=True))) == []
    assert set(classes) == set(SENT)


def test_the_functions_share_their_classification() -> None:
    def shared(file: Path) -> str:
        return file.read_text().partition("// BEGIN classify")[2].partition("// END classify")[0]

    assert len({shared(file) for file in FILES.values()}) == 1
    assert len(shared(FILES["bunny"])) > 500


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
async def test_four_browsers_need_two_copies(
    kind: str, edge: Edge, origin: Origin, library: Library
) -> None:
    base = f"http://127.0.0.1:{origin.port}"
    url = f"{base}/serve/{library.ids['photo']}?size=thumbnail"
    keys, types = set(), []
    async with aiohttp.ClientSession(base) as client:
        for accept in FOUR:
            forwarded = await asyncio.to_thread(edge.forwarded, kind, url, accept)
            keys.add((forwarded["url"], forwarded["accept"]))
            answer = await fetch(client, forwarded["url"], Accept=forwarded["accept"])
            assert answer.headers is not None
            types.append(answer.headers["Content-Type"])
    assert len(keys) == 2
    assert types == ["image/avif"] * 2 + ["image/webp"] * 2


HINTS: list[tuple[dict[str, str], bool]] = [
    ({"Save-Data": "on"}, True),
    ({"Save-Data": "?1"}, True),
    ({"ECT": "slow-2g"}, True),
    ({"ECT": "3g", "Save-Data": "off"}, True),
    ({"ECT": "4g"}, False),
    ({"Save-Data": "only"}, False),
    ({}, False),
]
"""Client hints, and whether they request fewer bytes."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_client_hints_are_one_value_in_the_cache_key_or_not_forwarded(
    kind: str, edge: Edge
) -> None:
    url = "https://img.example.org/serve/1"
    for edge.hints in (False, True):
        keys = set()
        for hints, lean in HINTS:
            assert wants_less(CIMultiDict(hints)) is lean
            forwarded = edge.forwarded(kind, url, CHROME, **hints)
            expected = "on" if lean and edge.hints else None
            assert (forwarded["saveData"], forwarded["ect"]) == (expected, None)
            # CloudFront's policy has to name the header.
            key = forwarded["url"] if kind in WITH_URLS else forwarded["saveData"]
            keys.add((key, expected))
        assert len(keys) == 1 + edge.hints


@pytest.mark.parametrize("kind", WITH_URLS)
@pytest.mark.parametrize(
    ("query", "forwarded"),
    [
        ("", "?cdn=both"),
        ("?size=grid", "?size=grid&cdn=both"),
        ("?size=detail?size=thumbnail", "?size=detail?size=thumbnail&cdn=both"),
        ("?size=grid&cdn=none", "?size=grid&cdn=none&cdn=both"),
    ],
)
def test_the_query_is_forwarded_with_the_class_appended(
    kind: str, query: str, forwarded: str, edge: Edge
) -> None:
    changed = edge.forwarded(kind, f"https://img.example.org/serve/1{query}", CHROME)
    assert changed["url"] == f"https://img.example.org/serve/1{forwarded}"


@pytest.mark.slow
async def test_the_server_ignores_the_class(origin: Origin, library: Library) -> None:
    target = f"/serve/{library.ids['photo']}?size=detail?size=thumbnail"
    async with aiohttp.ClientSession(f"http://127.0.0.1:{origin.port}") as client:
        tags = []
        for one in (target, f"{target}&cdn=both"):
            async with client.get(URL(one, encoded=True), headers={"Accept": CHROME}) as answer:
                assert answer.status == 200
                tags.append(answer.headers["ETag"])
    assert tags[0] == tags[1]


def test_cloudflare_caches_urls_without_extension_and_changes_nothing_else(edge: Edge) -> None:
    url = "https://img.example.org/serve/1"
    found = edge.run("cloudflare", fetched={"url": url, "method": "GET"})
    assert found["fetched"] == {"status": 200, "body": "picture"}
    assert found["options"] == {"cf": {"cacheEverything": True}}
    found = edge.run("cloudflare", fetched={"url": url, "method": "DELETE"})
    assert found["fetched"]["status"] == 405
    other = {"url": "https://img.example.org/metrics", "method": "GET"}
    assert edge.run("cloudflare", fetched=other)["fetched"]["status"] == 404
    assert edge.forwarded("cloudflare", url, CHROME, Cookie="a=b")["cookie"] is None


FOR_PAGES = [
    ("GET", "/static/smart-image.js"),
    ("HEAD", "/info/1"),
    ("GET", "/info?ids=1,2"),
    ("OPTIONS", "/info"),
    ("POST", "/info"),
    ("GET", "/oembed?url=https://img.example.org/serve/1"),
]
"""What pages need besides images."""
HIDDEN = ["/metrics", "/information", "/api/media/1", "/oembed/x", "/static/../metrics", "/"]


@pytest.mark.parametrize(("method", "target"), FOR_PAGES)
def test_cloudflare_passes_on_unchanged_what_pages_need(
    method: str, target: str, edge: Edge
) -> None:
    request: dict[str, Any] = {"url": f"https://img.example.org{target}", "method": method}
    request["headers"] = {"Accept": "text/javascript"}
    if method == "POST":
        request["body"] = '{"ids": [1]}'
    found = edge.run("cloudflare", fetched=request)
    assert found["fetched"]["status"] == 200
    assert "options" not in found
    forwarded = found["forwarded"]
    assert (forwarded["url"], forwarded["method"]) == (request["url"], method)
    assert (forwarded["accept"], forwarded["body"]) == ("text/javascript", request.get("body", ""))


@pytest.mark.parametrize("path", HIDDEN)
def test_cloudflare_hides_other_paths(path: str, edge: Edge) -> None:
    request = {"url": f"https://img.example.org{path}", "method": "GET"}
    found = edge.run("cloudflare", fetched=request)
    assert (found["fetched"]["status"], found.get("forwarded")) == (404, None)
    request = {"url": "https://img.example.org/info/1", "method": "POST"}
    found = edge.run("cloudflare", fetched=request)
    assert (found["fetched"]["status"], found["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_fastly_passes_on_what_pages_need() -> None:
    vcl = (FOLDER / "fastly" / "smartserve.vcl").read_text()
    passed, images = re.findall(r'req\.url\.path !?~ "(.+?)"', vcl)
    for _, target in FOR_PAGES:
        assert re.search(passed, target.partition("?")[0]), target
    for path in (URL(f"http://localhost{path}").path for path in HIDDEN):
        assert not re.search(passed, path), path
        assert not re.search(images, path), path
    assert '!(req.method == "POST" && req.url.path == "/info")' in vcl


@pytest.mark.slow
async def test_the_server_needs_no_accept_header_for_what_pages_need(
    origin: Origin, library: Library
) -> None:
    """CloudFront's function reduces the header for every path."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{origin.port}") as client:
        for target in ("/static/smart-image.js", f"/info/{library.ids['photo']}"):
            for accept in SENT.values():
                assert (await fetch(client, target, Accept=accept)).status == 200


def test_cloudfront_joins_several_header_lines(edge: Edge) -> None:
    several = edge.run("cloudfront", several=["image/avif", "image/webp,*/*"])["several"]
    assert several == SENT["both"]


def test_the_cloudfront_policy_keys_by_the_class_and_extends_no_lifetime() -> None:
    policy = json.loads((FOLDER / "cloudfront" / "cache-policy.json").read_text())
    assert (policy["MinTTL"], policy["DefaultTTL"]) == (0, 0)
    key = policy["ParametersInCacheKeyAndForwardedToOrigin"]
    assert key["HeadersConfig"]["Headers"]["Items"] == ["Accept"]
    assert key["QueryStringsConfig"] == {"QueryStringBehavior": "all"}
    assert key["CookiesConfig"] == {"CookieBehavior": "none"}


def test_bunny_receives_the_tags_in_its_own_header(edge: Edge) -> None:
    found = edge.run("bunny", tagged={"Cache-Tag": "m-1,u-7", "ETag": '"x"'})
    assert found["tagged"]["cdn-tag"] == "m-1,u-7"
    assert found["tagged"]["etag"] == '"x"'
    assert found["hooks"] == ["onClientRequest", "onOriginResponse"]


def test_fastly_uses_the_expressions_of_nginx() -> None:
    vcl = (FOLDER / "fastly" / "smartserve.vcl").read_text()
    conf = (DEPLOY / "nginx" / "formats.conf").read_text()
    blocks = conf.partition("map $http_accept")[2].partition("map $smartserve_format")[0]
    expressions = set(re.findall(r"^    '~\*(.+)' \S+;$", blocks, re.MULTILINE))
    assert len(expressions) == 10
    assert set(re.findall(r'\{"\(\?i\)(.+?)"\}', vcl)) == expressions
    assert set(re.findall(r'set req\.http\.Accept = "(.+)";', vcl)) == set(SENT.values())


@pytest.mark.parametrize("name", ["cloudflare", "cloudfront", "fastly", "bunny"])
def test_each_recipe_describes_its_pitfall_and_how_to_purge(name: str) -> None:
    page = (FOLDER / "README.md").read_text()
    section = page.lower().partition(f"\n## {name}")[2].partition("\n## ")[0]
    for word in ("trap", "vary", "purge", "stale"):
        assert word in section, word
