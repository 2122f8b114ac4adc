"""A fake service with the APIs of both providers, and scripted misbehaviour."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.waiting import pause_between_pieces

KEY = "sk-hunter2-0123456789"

Act = Callable[[web.Request], Awaitable[web.StreamResponse]]

GOOGLE_ANSWER: dict[str, Any] = {
    "responses": [
        {
            "labelAnnotations": [
                {"mid": "/m/0gy", "description": "Macaw", "score": 0.98, "topicality": 0.9},
                {"mid": "/m/015p6", "description": "Bird", "score": 0.96},
            ],
            "localizedObjectAnnotations": [
                {
                    "name": "Parrot",
                    "score": 0.9,
                    "boundingPoly": {
                        "normalizedVertices": [
                            {"x": 0.25},
                            {"x": 0.75},
                            {"x": 0.75, "y": 0.5},
                            {"x": 0.25, "y": 0.5},
                        ]
                    },
                }
            ],
            "textAnnotations": [
                {"locale": "en", "description": "FREE\nBIRD\n"},
                {"description": "FREE"},
            ],
            "logoAnnotations": [
                {
                    "mid": "/m/0dwx7",
                    "description": "Kodak",
                    "score": 0.5,
                    # In pixels of the image that was sent, unlike those of objects.
                    "boundingPoly": {
                        "vertices": [{"y": 50}, {"x": 100, "y": 50}, {"x": 100, "y": 150}]
                    },
                }
            ],
            "safeSearchAnnotation": {
                "adult": "VERY_UNLIKELY",
                "spoof": "POSSIBLE",
                "medical": "UNLIKELY",
                "violence": "UNLIKELY",
                "racy": "VERY_LIKELY",
            },
        }
    ]
}
SEEN = {
    "style": "Impressionist",
    "medium": "Oil on Canvas",
    "subject": "Two macaws in a garden.",
    "mood_keywords": ["lively", "tropical"],
    "objects": [{"name": "macaw", "confidence": 0.97}],
    "brands": [{"name": "Kodak", "confidence": 0.8}],
    "text": None,
    "confidence": 0.92,
}


def completion(content: str | None, **message: Any) -> dict[str, Any]:
    """Return a chat completion with this content."""
    finish = message.pop("finish_reason", "stop")
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": finish,
            }
        ],
        "usage": {"prompt_tokens": 1200, "completion_tokens": 100, "total_tokens": 1300},
    }


def embedded(values: Sequence[float]) -> dict[str, Any]:
    """Return what an embedding model answers."""
    return {"object": "list", "data": [{"index": 0, "embedding": [*values]}], "model": "clip"}


def says(answer: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Act:
    """Answer with JSON."""

    async def act(_request: web.Request) -> web.StreamResponse:
        return web.json_response(answer, status=status, headers=headers)

    return act


def fails(status: int, headers: Mapping[str, str] | None = None, **error: Any) -> Act:
    """Answer with an error in the form of both APIs. The message repeats the key, as some do."""
    return says({"error": {"message": f"bad key {KEY}", **error}}, status, headers)


async def talks_nonsense(_request: web.Request) -> web.StreamResponse:
    """Answer 200 with a page of HTML."""
    return web.Response(text="<html>login</html>", content_type="text/html")


async def hangs(_request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def dribbles(request: web.Request) -> web.StreamResponse:
    """Send an answer without end, slowly."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await pause_between_pieces(0.02)


async def breaks_off(request: web.Request) -> web.StreamResponse:
    """Close the connection in the middle of an answer."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"responses": [')
    assert request.transport is not None
    request.transport.close()
    return response


async def hangs_up(request: web.Request) -> web.StreamResponse:
    """Close the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def floods(request: web.Request) -> web.StreamResponse:
    """Answer with 64 MB of unknown length."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(1000):
        await response.write(b" " * 65536)
    return response


async def sends_elsewhere(_request: web.Request) -> web.StreamResponse:
    """Redirect to another host."""
    raise web.HTTPTemporaryRedirect("http://127.0.0.1:9/steal")


@dataclass
class Service:
    """Performs one act per request, then repeats the last one. Records all requests."""

    acts: list[Act] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(json.loads(await request.read()))
        self.headers.append(dict(request.headers))
        self.paths.append(request.path_qs)
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        return await act(request)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/{path:.*}", self.handle)
        return app
