"""Uploads as a browser and a worker send them."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import jwt
from aiohttp import FormData

from tests.support.server import SAMPLES, Serving

PHOTO = min(SAMPLES.glob("*.jpg")).read_bytes()
LOGO = (SAMPLES / "logo.png").read_bytes()
SECRET = "a secret of thirty-two bytes, or more"
USERS = {"jwt_secret": SECRET}
KEY = "a-key-that-is-for-these-tests-alone"
MAIN = {"key": KEY}
KEYED = {"Authorization": f"Bearer {KEY}"}


def token(user: object = 456, *, secret: str = SECRET, **claims: object) -> str:
    return jwt.encode({"sub": str(user), "exp": 2**33, **claims}, secret, algorithm="HS256")


def signed(user: object = 456) -> dict[str, str]:
    """Return the header with a user's token."""
    return {"Authorization": f"Bearer {token(user)}"}


def form(files: Mapping[str, bytes], **texts: str) -> FormData:
    """Return a form with files in fields, and texts."""
    made = FormData(dict(texts), default_to_multipart=True)
    for field, body in files.items():
        made.add_field(field, BytesIO(body), filename=f"{field}.jpg", content_type="image/jpeg")
    return made


BOUNDED = {"Content-Type": "multipart/form-data; boundary=b"}


def parts(*heads: Mapping[str, str], body: bytes = PHOTO) -> bytes:
    """Return a form with the boundary `BOUNDED`, of parts with these headers and this body."""
    made = b""
    for head in heads:
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        made += b"--b\r\n" + lines.encode() + b"\r\n" + body + b"\r\n"
    return made + b"--b--\r\n"


async def upload(server: Serving, files: Mapping[str, bytes] | None = None) -> list[dict[str, Any]]:
    """Return the images of a successful upload."""
    data = form(files or {"profile_image": PHOTO})
    async with server.client.patch("/users/me", data=data, headers=signed()) as answer:
        assert answer.status == 200, await answer.text()
        images: list[dict[str, Any]] = (await answer.json())["images"]
    return images


async def queue(server: Serving) -> dict[str, Any]:
    async with server.client.get("/api/media/pending/all", headers=KEYED) as answer:
        assert answer.status == 200
        told: dict[str, Any] = await answer.json()
    return told


def temp_files(server: Serving) -> list[Path]:
    """Return all files below the root of uploads, hidden ones too."""
    root = server.services.settings.temp_root
    return sorted(path for path in root.rglob("*") if path.is_file())


async def nothing_is_left(server: Serving) -> bool:
    """Return whether there is neither a file nor a row."""
    return not temp_files(server) and (await queue(server))["total"] == 0
