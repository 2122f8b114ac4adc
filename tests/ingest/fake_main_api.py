"""A fake main API: as the requirements document defines it, with every way to fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.support.waiting import eventually

KEY = "the-key-of-the-media-api"


@dataclass
class Image:
    """A row of ``pending_images`` and its file."""

    id: int
    user_id: int
    image_path: str
    body: bytes | None
    """None once the file is deleted."""
    status: str = "pending"
    media_id: str | None = None
    completions: list[dict[str, Any]] = field(default_factory=list)


class FakeMainApi:
    """The Node server of the platform, as a worker sees it."""

    def __init__(self) -> None:
        self.images: dict[int, Image] = {}
        self.asked: Counter[str] = Counter()
        """Requests by name of route."""
        self.ranges: list[str | None] = []
        self.status: dict[str, int] = {}
        """Status to answer, by route."""
        self.headers: dict[str, str] = {}
        """Headers of these answers."""
        self.text: dict[str, str] = {}
        """HTML to answer with status 200, by route."""
        self.page: dict[str, str] | None = None
        """Headers of an error page with status 200 that a proxy sends instead of each file."""
        self._gates: dict[str, asyncio.Event] = {}
        self.cuts: list[int] = []
        """Each of the next downloads breaks off after so many bytes."""
        self.replaced: dict[int, bytes] = {}
        """By upload id: the file after the next broken download."""
        self.downloaded: Callable[[], int] = lambda: 0
        """Returns the bytes that the client has stored; set it if there are cuts."""
        self.etag = True
        self.base = ""

    def add(
        self, body: bytes, *, kind: str = "profile", user_id: int = 4, suffix: str = "jpg"
    ) -> Image:
        """Add a pending upload."""
        number = max(self.images, default=0) + 1
        folder = "sites" if kind == "site" else "profiles"
        path = f"/temp_images/{folder}/{user_id}-{kind}-17041104{number:02}-98765432.{suffix}"
        self.images[number] = Image(number, user_id, path, body)
        return self.images[number]

    def hold(self, route: str) -> asyncio.Event:
        """Answer no request to a route until the event is set."""
        self._gates[route] = asyncio.Event()
        return self._gates[route]

    def release(self) -> None:
        """Answer all held requests."""
        for gate in self._gates.values():
            gate.set()

    def app(self) -> web.Application:
        """The routes of the requirements document, sections 2 and 8."""
        app = web.Application(middlewares=[self._answering])
        app.router.add_get("/api/media/pending/all", self._pending, name="pending")
        app.router.add_post("/api/media/complete/{id}", self._complete, name="complete")
        app.router.add_delete("/api/media/cleanup/{id}", self._cleanup, name="cleanup")
        app.router.add_get("/temp_images/{path:.+}", self._file, name="file")
        return app

    @web.middleware
    async def _answering(self, request: web.Request, handler: Any) -> web.StreamResponse:
        name = request.match_info.route.name or ""
        self.asked[name] += 1
        if name in self._gates:
            await self._gates[name].wait()
        if name in self.status:
            return web.Response(status=self.status[name], headers=self.headers)
        if name != "file" and request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        if name in self.text:
            return web.Response(text=self.text[name], content_type="text/html")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _pending(self, _request: web.Request) -> web.Response:
        images = [
            {
                "id": one.id,
                "user_id": one.user_id,
                "image_path": one.image_path,
                "original_name": f"my-photo-{one.id}.jpg",
                "mime_type": "image/jpeg",
                "status": "pending",
                "created_at": "2024-01-01T10:00:00Z",
            }
            for one in self.images.values()
            if one.status == "pending"
        ]
        return web.json_response({"images": images, "total": len(images)})

    async def _complete(self, request: web.Request) -> web.Response:
        image = self._image(request)
        payload = await request.json()
        image.completions.append(payload)
        image.media_id, image.status = payload["media_id"], "processed"
        return web.json_response(
            {
                "success": True,
                "imageId": image.id,
                "media_id": image.media_id,
                "status": "processed",
                "smart_url_preview": f"https://api2.example.org/api/images/{image.media_id}",
            }
        )

    async def _cleanup(self, request: web.Request) -> web.Response:
        image = self._image(request)
        image.status, image.body = "failed", None
        return web.json_response(
            {"success": True, "message": "Image marked as failed and temp file cleaned up"}
        )

    def _image(self, request: web.Request) -> Image:
        found = self.images.get(int(request.match_info["id"]))
        if found is None:
            raise web.HTTPNotFound
        return found

    async def _file(self, request: web.Request) -> web.StreamResponse:
        self.ranges.append(request.headers.get("Range"))
        if self.page is not None:
            page = web.StreamResponse(headers=self.page)
            if "Content-Length" in page.headers:
                # The end of the connection ends the body, as in HTTP/1.0.
                del page.headers["Content-Length"]
                page.force_close()
                page._length_check = False
            await page.prepare(request)
            await page.write(b"Access denied")
            return page
        body = next((i.body for i in self.images.values() if i.image_path == request.path), None)
        if body is None:
            raise web.HTTPNotFound
        etag = f'"{sha256(body).hexdigest()}"'
        start = 0
        if request.http_range.start and request.headers.get("If-Range") == etag:
            start = request.http_range.start
        response = web.StreamResponse(status=206 if start else 200)
        if self.etag:
            response.headers["ETag"] = etag
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        response.content_length = len(body) - start
        await response.prepare(request)
        if self.cuts:
            cut = self.cuts.pop(0)
            await response.write(body[start : start + cut])
            assert request.transport is not None
            await eventually(lambda: self.downloaded() >= start + cut)
            request.transport.abort()
            for number, other in self.replaced.items():
                self.images[number].body = other
            return response
        await response.write(body[start:])
        return response

    def count(self, status: str) -> int:
        """Return the number of uploads with a status."""
        return sum(one.status == status for one in self.images.values())


@asynccontextmanager
async def fake_main_api() -> AsyncIterator[FakeMainApi]:
    """Run a fake main API while the block runs."""
    fake = FakeMainApi()
    async with TestServer(fake.app()) as server:
        fake.base = f"http://127.0.0.1:{server.port}"
        yield fake
        fake.release()
