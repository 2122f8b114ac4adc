"""Real pictures of many kinds, over HTTP: served right or refused with a reason."""

from __future__ import annotations

import io
from functools import partial

import pytest
from PIL import Image
from yarl import URL

from proxy.domain.media import DataType
from proxy.library.import_files import ImportedFile, RejectedFile
from tests.support.photos import NAMES, photo
from tests.support.server import CHROME, Background, Serving

REFUSED = {"corrupt-header.jpg", "truncated.jpg", "giant.jpg"}
"""What a strict import does not take: no header, cut off, 20,000 pixels high."""
MOVING = {"animated.gif", "animated.webp"}
TRANSPARENT = {"icon.svg", "alpha-2048.png", "drawing-alpha.png", "grey16-alpha.png"}


@pytest.mark.parametrize("name", NAMES)
async def test_every_kind_is_served_in_every_format_or_refused(
    keyed: Serving, keyed_background: Background, name: str
) -> None:
    path = photo(name)
    crashes = partial(keyed.metric, "smartserve_worker_restarts_total", reason="crash")
    before = crashes()
    importer = keyed.services.importer
    taken = keyed_background.portal.call(
        partial(importer.import_file, path, user_id=1, data_type=DataType.EVENT)
    )
    if path.name in REFUSED:
        assert isinstance(taken, RejectedFile)
        assert taken.reason
        return
    assert isinstance(taken, ImportedFile)
    for accept in (CHROME, "image/webp,*/*", "*/*"):
        for size in ("thumbnail", "grid"):
            target = URL(f"/serve/{taken.media_id}?size={size}")
            answer = await keyed.client.get(target, headers={"Accept": accept})
            body = await answer.read()
            assert answer.status == 200, (accept, size, body)
            _check(body, answer.content_type, path.name, accept)
    assert crashes() == before


def _check(body: bytes, media_type: str, name: str, accept: str) -> None:
    with Image.open(io.BytesIO(body)) as picture:
        picture.load()
        assert picture.get_format_mimetype() == media_type
        assert max(picture.size) <= 500
        if name in MOVING:
            assert media_type == ("image/gif" if accept == "*/*" else "image/webp")
            assert picture.n_frames > 1  # type: ignore[attr-defined]
        elif name in TRANSPARENT:
            assert media_type != "image/jpeg"
            assert min(picture.convert("RGBA").getchannel("A").tobytes()) < 255
        elif accept == CHROME:
            assert media_type == "image/avif"


@pytest.mark.parametrize("name", ["truncated.jpg", "corrupt-header.jpg"])
async def test_a_damaged_original_that_is_known_already_gets_a_clear_answer(
    server: Serving, name: str
) -> None:
    taken = await server.services.importer.import_file(
        photo("flowers.jpg"), user_id=1, data_type=DataType.EVENT
    )
    assert isinstance(taken, ImportedFile)
    media = await server.services.storage.database.find(taken.media_id)
    assert media is not None
    assert media.source_path is not None
    root = server.services.settings.storage_root
    (root / media.source_path).write_bytes(photo(name).read_bytes())
    answer = await server.client.get(f"/serve/{taken.media_id}?size=small")
    body = await answer.read()
    expected = {"truncated.jpg": 200, "corrupt-header.jpg": 422}[name]
    assert answer.status == expected, body
    if expected == 200:
        Image.open(io.BytesIO(body)).load()
