"""A frontend that uploads: a user and a form for each picture, again until it is in."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import aiohttp
import jwt

from tests.platform.pictures import Picture

SECRET = "the secret of the platform's tests, 32 bytes or more"
_PATIENCE_S = 60.0


def token(user: int) -> str:
    """What a user shows."""
    expires = datetime.now(UTC) + timedelta(hours=1)
    return jwt.encode({"sub": str(user), "exp": expires}, SECRET, "HS256")


@dataclass(frozen=True, slots=True)
class Uploaded:
    """An upload that was answered, by its id in the queue."""

    id: int
    user: int
    picture: Picture


async def send(base: str, user: int, picture: Picture) -> Uploaded:
    """Upload a picture, again where the server dies under it; the answer counts."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _PATIENCE_S
    while True:
        try:
            return await _send_once(base, user, picture)
        except (aiohttp.ClientError, TimeoutError):
            if loop.time() > until:
                raise
            await asyncio.sleep(0.5)


async def _send_once(base: str, user: int, picture: Picture) -> Uploaded:
    form = aiohttp.FormData()
    form.add_field(picture.field, io.BytesIO(picture.content), filename=picture.name)
    headers = {"Authorization": f"Bearer {token(user)}"}
    timeout = aiohttp.ClientTimeout(total=30)
    async with (
        aiohttp.ClientSession(base, timeout=timeout) as client,
        client.patch("/users/me", data=form, headers=headers) as answer,
    ):
        body = await answer.json()
        if answer.status == 503:
            raise aiohttp.ClientConnectionError(body["detail"])
        assert answer.status in (200, 202), body
    (stored,) = body["images"]
    return Uploaded(stored["id"], user, picture)


async def send_all(bases: Sequence[str], pictures: Sequence[Picture]) -> list[Uploaded]:
    """Upload all, each by a user of its own, a few at a time, to all servers in turn."""
    gate = asyncio.Semaphore(4)

    async def one(number: int, picture: Picture) -> Uploaded:
        async with gate:
            return await send(bases[number % len(bases)], 100 + number, picture)

    return await asyncio.gather(*(one(*each) for each in enumerate(pictures)))
