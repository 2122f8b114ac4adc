"""The requirements document's own requests and queries, taken as written."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from tests.faults.server import Sections, Server
from tests.platform.ledger import MariaLedger
from tests.platform.sending import SECRET, token
from tests.support.mariadb import MariaDB
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

KEY = "your-secure-api-key-here"
USER = 456
BASE = "https://api2.onlineartfestival.com/api/images"

# Section 1, as it stands there.
PENDING_IMAGES = """
CREATE TABLE pending_images (
  id BIGINT AUTO_INCREMENT PRIMARY KEY,
  user_id BIGINT NOT NULL,
  image_path VARCHAR(255) NOT NULL,        -- /temp_images/profiles/123-profile-456.jpg
  original_name VARCHAR(255),
  mime_type VARCHAR(100),
  permanent_url VARCHAR(500),              -- Media ID after processing
  thumbnail_url VARCHAR(500),              -- Same as permanent_url (media ID)
  status ENUM('pending','processed','complete','failed') DEFAULT 'pending',
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP
);
"""
# Of the main API's own tables, the columns that section 4 names.
PROFILES = f"""
CREATE TABLE user_profiles (user_id BIGINT PRIMARY KEY, display_name VARCHAR(50) NOT NULL,
  profile_image_path VARCHAR(500), header_image_path VARCHAR(500));
CREATE TABLE artist_profiles (user_id BIGINT PRIMARY KEY, logo_path VARCHAR(500));
CREATE TABLE promoter_profiles (user_id BIGINT PRIMARY KEY, logo_path VARCHAR(500));
CREATE TABLE site_media (id BIGINT AUTO_INCREMENT PRIMARY KEY, media_path VARCHAR(500));
INSERT INTO user_profiles VALUES ({USER}, 'Ada', NULL, NULL);
INSERT INTO artist_profiles VALUES ({USER}, NULL);
INSERT INTO promoter_profiles VALUES ({USER}, NULL);
"""
# Section 12, the rich callback, its comments and its (...) aside.
RICH = """{
  "permanent_url": "https://media-backend/serve/789",
  "processing_complete": true,
  "ai_enhanced": true,
  "formats_available": ["avif", "webp", "jpeg", "png"],
  "ai_analysis": {
    "style": "Abstract Expressionist",
    "medium": "Oil on Canvas",
    "quality_score": 85,
    "mood_keywords": ["vibrant", "energetic"],
    "brand_colors": ["#FF5733", "#33A1FF"],
    "site_context": {},
    "background_removed": true
  }
}"""


class Platform:
    """A server over a main database that the platform's own program made."""

    def __init__(self, server: Server, ledger: MariaLedger) -> None:
        self.server = server
        self.ledger = ledger

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
        """A request with the media key, and its answer."""
        headers = {"Authorization": f"Bearer {KEY}", **options.pop("headers", {})}
        async with (
            self.server.client() as client,
            client.request(method, path, headers=headers, **options) as answer,
        ):
            return answer.status, await answer.json()

    async def upload(self, **pictures: bytes) -> list[Mapping[str, Any]]:
        """``PATCH /users/me`` with a file in each field."""
        form = aiohttp.FormData()
        for field, content in pictures.items():
            form.add_field(field, io.BytesIO(content), filename="my-photo.jpg")
        headers = {"Authorization": f"Bearer {token(USER)}"}
        async with (
            self.server.client(headers=headers) as client,
            client.patch("/users/me", data=form) as answer,
        ):
            body = await answer.json()
            assert answer.status == 200, body
        images: list[Mapping[str, Any]] = body["images"]
        return images

    async def until(self, query: str, wanted: str, within_s: float = 60) -> None:
        """Return when a query of one value gives this one."""
        await eventually(
            lambda: self.ledger.rows(query) == [(wanted,)], timeout_s=within_s, interval_s=0.2
        )


def jpeg(colour: str) -> bytes:
    body = io.BytesIO()
    Image.new("RGB", (800, 600), colour).save(body, "JPEG")
    return body.getvalue()


def logo() -> bytes:
    picture = Image.new("RGB", (400, 400), "white")
    picture.paste((200, 30, 60), (100, 100, 300, 300))
    body = io.BytesIO()
    picture.save(body, "PNG")
    return body.getvalue()


@pytest.fixture
async def platform(mariadb: MariaDB, tmp_path: Path) -> AsyncIterator[Platform]:
    """No worker of its own: here the tests are the media VM."""
    platform = await _platform(mariadb, tmp_path, embedded=False)
    yield platform
    await platform.server.stop()


@pytest.fixture
async def whole(mariadb: MariaDB, tmp_path: Path) -> AsyncIterator[Platform]:
    """With a worker."""
    platform = await _platform(mariadb, tmp_path, embedded=True)
    yield platform
    await platform.server.stop()


async def _platform(mariadb: MariaDB, tmp_path: Path, *, embedded: bool) -> Platform:
    main, media = mariadb.create_database(), mariadb.create_database()
    mariadb.execute(PENDING_IMAGES + PROFILES, database=main)
    sections: Sections = {
        "database": {"url": mariadb.url(media)},
        "main": {"url": mariadb.url(main), "replace_interval_s": 0.5},
        "users": {"jwt_secret": SECRET},
        "ingest": {"embedded": embedded, "poll_interval_s": 1},
    }
    variables = {"MEDIA_API_KEY": KEY, "MAIN_API_KEY": KEY, "SMART_MEDIA_BASE_URL": BASE}
    server = Server(tmp_path / "data", sections, extra=variables)
    await server.start()
    return Platform(server, MariaLedger(mariadb, main))


async def test_uploads_of_all_fields_stand_in_the_queue_as_the_document_has_it(
    platform: Platform,
) -> None:
    await platform.upload(
        profile_image=jpeg("red"),
        header_image=jpeg("green"),
        logo_image=logo(),
        site_image=jpeg("blue"),
        product_image=jpeg("pink"),
        event_image=jpeg("gray"),
    )
    status, queue = await platform.ask("GET", "/api/media/pending/all")
    assert (status, queue["total"]) == (200, 6)
    first = queue["images"][0]
    assert set(first) >= {
        *("id", "user_id", "image_path", "original_name", "mime_type", "status", "created_at"),
    }
    assert (first["user_id"], first["status"]) == (USER, "pending")
    assert first["original_name"] == "my-photo.jpg"
    assert first["created_at"].endswith("Z")
    prefixes = [one["image_path"].rpartition("/")[0] for one in queue["images"]]
    assert prefixes.count("/temp_images/sites") == 1
    assert prefixes.count("/temp_images/profiles") == 5
    kinds = [one["image_path"].split("-")[1] for one in queue["images"]]
    assert kinds == ["profile", "header", "logo", "site", "product", "event"]


async def test_the_simple_completion_is_answered_as_written(platform: Platform) -> None:
    (image,) = await platform.upload(profile_image=jpeg("red"))
    for _ in range(2):
        answer = await platform.ask(
            "POST", f"/api/media/complete/{image['id']}", json={"media_id": "789"}
        )
        assert answer == (
            200,
            {
                "success": True,
                "imageId": image["id"],
                "media_id": "789",
                "status": "processed",
                "smart_url_preview": f"{BASE}/789",
            },
        )


async def test_the_rich_completion_ends_in_the_profile(platform: Platform) -> None:
    (image,) = await platform.upload(profile_image=jpeg("red"))
    headers = {"Content-Type": "application/json"}
    path = f"/api/media/complete/{image['id']}"
    status, body = await platform.ask("POST", path, data=RICH, headers=headers)
    assert (status, body["media_id"]) == (200, "789")
    await platform.until("SELECT profile_image_path FROM user_profiles", f"{BASE}/789?size=detail")
    assert platform.ledger.rows("SELECT status, permanent_url FROM pending_images") == [
        ("complete", "789")
    ]


async def test_a_failure_is_answered_as_written_and_its_file_is_gone(platform: Platform) -> None:
    (image,) = await platform.upload(header_image=jpeg("red"))
    file = platform.server.data_dir / "temp_images" / image["image_path"][len("/temp_images/") :]
    assert file.is_file()
    for _ in range(2):
        assert await platform.ask("DELETE", f"/api/media/cleanup/{image['id']}") == (
            200,
            {"success": True, "message": "Image marked as failed and temp file cleaned up"},
        )
    assert not file.exists()
    assert platform.ledger.rows("SELECT status FROM pending_images") == [("failed",)]


async def test_an_upload_comes_out_at_every_address_of_the_document(whole: Platform) -> None:
    await whole.upload(logo_image=logo(), site_image=jpeg("blue"))
    await whole.until("SELECT COUNT(*) FROM pending_images WHERE status = 'complete'", "2")
    (logo_path,) = whole.ledger.rows("SELECT logo_path FROM artist_profiles")[0]
    assert whole.ledger.rows("SELECT logo_path FROM promoter_profiles") == [(logo_path,)]
    assert logo_path.startswith(f"{BASE}/")
    assert logo_path.endswith("?size=detail")
    media_id = logo_path[len(BASE) + 1 : -len("?size=detail")]
    avif = {"Accept": "image/avif,image/webp,*/*;q=0.8"}
    async with whole.server.client(headers=avif) as client:
        for target, kind in {
            f"/api/images/{media_id}?size=thumbnail": "image/avif",
            # Frontends append a size to an address that has one.
            f"/api/images/{media_id}?size=detail?size=small": "image/avif",
            f"/serve/{media_id}?size=grid&format=webp": "image/webp",
            f"/serve/{media_id}?size=thumbnail&bg=removed": "image/avif",
            f"/serve/{media_id}?size=thumbnail&bg=original": "image/avif",
        }.items():
            async with client.get(target) as answer:
                body = await answer.read()
                assert (answer.status, answer.headers["Content-Type"]) == (200, kind), target
            Image.open(io.BytesIO(body)).load()
            if "bg=removed" in target:
                assert Image.open(io.BytesIO(body)).mode == "RGBA"
    status, told = await whole.ask("GET", f"/api/media/analysis/{media_id}")
    analysis = told["analysis"]
    assert (status, told["success"]) == (200, True)
    assert set(analysis) >= {
        *("style", "medium", "quality_score", "mood_keywords", "brand_colors", "site_context"),
        *("dominant_colors", "detected_objects", "confidence_score"),
    }
    assert analysis["style"] is None
    assert analysis["brand_colors"]


async def test_the_debug_queries_run_as_written(whole: Platform) -> None:
    await whole.upload(profile_image=jpeg("red"), site_image=b"\xff\xd8\xff no picture")
    await whole.until("SELECT COUNT(*) FROM pending_images WHERE status = 'complete'", "1")
    await whole.until("SELECT COUNT(*) FROM pending_images WHERE status = 'failed'", "1")
    rows = whole.ledger.rows
    assert rows("SELECT COUNT(*) FROM pending_images WHERE status = 'pending'") == [("0",)]
    stuck = (
        "SELECT * FROM pending_images WHERE status = 'pending'"
        " AND created_at < NOW() - INTERVAL 1 HOUR;"
    )
    assert rows(stuck) == []
    recent = (
        "SELECT id FROM pending_images WHERE status = 'failed'"
        " AND updated_at > NOW() - INTERVAL 1 DAY;"
    )
    assert len(rows(recent)) == 1
    # The document counts image_path, which that table does not have.
    progress = """SELECT COUNT(*) as total,
      SUM(CASE WHEN profile_image_path LIKE '/temp_images/%' THEN 1 ELSE 0 END) as temp_urls,
      SUM(CASE WHEN profile_image_path LIKE 'https://api2.onlineartfestival.com/api/images/%'
        THEN 1 ELSE 0 END) as permanent_urls
    FROM user_profiles WHERE profile_image_path IS NOT NULL;"""
    assert rows(progress) == [("1", "0", "1")]
