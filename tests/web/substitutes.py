"""The matrix of conditional requests for a response that is not the final of its image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from itertools import product

from aiohttp import ClientResponse
from multidict import CIMultiDict

from proxy.domain.request import parse_request
from proxy.web.headers import http_date
from tests.support.server import CHROME, Serving

ROUTES = ("/serve", "/api/images")
_LASTING = ("public, max-age=31536000", "public, max-age=3600, stale-while-revalidate=86400")


@dataclass(frozen=True)
class Substitute:
    """A server that answers a request with something else than the final of the image."""

    server: Serving
    media_id: int
    query: str

    async def send(
        self, route: str, *, method: str = "GET", cached: bool, **headers: str
    ) -> ClientResponse:
        # Several Accept lines bypass the response cache.
        lines = [("Accept", CHROME)] if cached else [("Accept", one) for one in CHROME.split(",")]
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return await self.server.client.request(
            method,
            f"{route}/{self.media_id}?{self.query}",
            headers=CIMultiDict([*lines, *named]),
        )

    async def final(self) -> tuple[str, str]:
        """Return the ETag and the Last-Modified of the final."""
        services = self.server.services
        media = await services.storage.database.find(self.media_id)
        assert media is not None
        request = parse_request(self.query, sizes=services.settings.size_specs())
        plan = await services.serving.delivery.plan(media, request, CHROME)
        return plan.variant.etag, http_date(media.updated_at)


def conditions(final: str, modified: str, own: str) -> dict[str, dict[str, str]]:
    """Return the headers that a client may have from this response, another one or the final."""
    now = formatdate(usegmt=True)
    return {
        "the Date": {"If_Modified_Since": now},
        "the final's date": {"If_Modified_Since": modified},
        "anything": {"If_None_Match": "*"},
        "the final": {"If_None_Match": final},
        "the final, weak": {"If_None_Match": f"W/{final}"},
        "a list with the final": {"If_None_Match": f'"x", {final}, W/"y"'},
        "a list with its own": {"If_None_Match": f'"x", W/{own}, {final}'},
        "its own": {"If_None_Match": own},
        "the final with a date": {"If_None_Match": final, "If_Modified_Since": now},
        "a range": {"Range": "bytes=0-9"},
        "a range of its own": {"Range": "bytes=0-9", "If_Range": own},
        "a range of the final": {"Range": "bytes=0-9", "If_Range": final},
        "a range by date": {"Range": "bytes=0-9", "If_Range": modified},
        "a range with a date": {"Range": "bytes=0-9", "If_Modified_Since": now},
    }


def expected(method: str, name: str, sent: Mapping[str, str], *, same: bool) -> int:
    """Return the expected status; ``same`` is whether the substitute is the final's rendition."""
    if "If_None_Match" in sent:
        return 304 if same or name in ("anything", "its own", "a list with its own") else 200
    if method == "HEAD" or "Range" not in sent:
        return 200
    # Only the ETag of this very rendition makes a part of it fit; a date never does.
    other = name == "a range by date" or (name == "a range of the final" and not same)
    return 200 if other else 206


async def check_matrix(served: Substitute, route: str, *, same: bool) -> None:
    """Fail unless each conditional response has the ETag and the lifetime of a plain one.

    ``same``: the substitute is the rendition of the final, with a shorter lifetime.
    """
    final, modified = await served.final()
    plain = await served.send(route, cached=True)
    body = await plain.read()
    due = (plain.headers["ETag"], plain.headers["Cache-Control"])
    assert (plain.status, due[0] == final) == (200, same)
    assert due[1] not in _LASTING
    faults = []
    for name, sent in conditions(final, modified, due[0]).items():
        for method, cached in product(("GET", "HEAD"), (True, False)):
            answer = await served.send(route, method=method, cached=cached, **sent)
            text = await answer.read()
            told = answer.status, answer.headers.get("ETag"), answer.headers.get("Cache-Control")
            status = expected(method, name, sent, same=same)
            whole = {200: body, 206: body[:10], 304: b""}[status] if method == "GET" else b""
            if told != (status, *due) or text != whole:
                faults.append((name, method, cached, *told, text[:80]))
    assert not faults, "\n".join(map(str, faults))
