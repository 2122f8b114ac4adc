"""Prompts, positions, serial numbers and owners never appear in images, /info or logs."""

from __future__ import annotations

import json
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
from PIL import Image, PngImagePlugin

from tests.metadata.files import chunk, png, require_exiftool, ztxt_bomb
from tests.platform.ledger import Ledger, SqliteLedger
from tests.support.commands import run, started
from tests.support.server import CHROME
from tests.support.uploads import KEY, SECRET, token
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

PROMPT = "zebra wearing a crimson tuxedo"
NEGATIVE = "blurry mongoose"
SERIAL = "SN4711-0815-77"
OWNER = "Wilhelmina Oberholzer"
CITY = "Longyearbyen"
FILE_NAME = "zanzibar honeymoon"
LATITUDE, LONGITUDE = "59.913868", "10.752245"
SECRETS = (
    *("zebra", "tuxedo", "mongoose", SERIAL, "Oberholzer", CITY, "59.9138", "10.7522", "59 deg"),
)
LOGGED_SECRETS = (*SECRETS, "zanzibar")
"""A download has the name of its file."""
INFOTEXT = f"{PROMPT}\nNegative prompt: {NEGATIVE}\nSteps: 20, Sampler: Euler a, Seed: 5, Size: 8x8"
ROUTES = {"/api/metadata/moderate": "image"}
"""Routes that extract, and their field."""
_WAIT_S = 240.0


class Answer(NamedTuple):
    status: int
    headers: str
    body: bytes


def photograph(folder: Path) -> Path:
    """A JPEG in which a camera, an agency and a generator have left everything they know."""
    path = folder / f"{FILE_NAME}.jpg"
    Image.effect_noise((640, 480), 60).convert("RGB").save(path)
    tags = {
        "IFD0:Make": "Canon",
        "IFD0:Artist": OWNER,
        "IFD0:ImageDescription": PROMPT,
        "ExifIFD:SerialNumber": SERIAL,
        "ExifIFD:OwnerName": OWNER,
        "ExifIFD:UserComment": INFOTEXT.replace("\n", " "),
        "GPS:GPSLatitude": LATITUDE,
        "GPS:GPSLatitudeRef": "N",
        "GPS:GPSLongitude": LONGITUDE,
        "GPS:GPSLongitudeRef": "E",
        "IPTC:City": CITY,
        "IPTC:By-line": OWNER,
        "IPTC:Caption-Abstract": PROMPT,
        "XMP-dc:Creator": OWNER,
        "XMP-dc:Description": PROMPT,
        "XMP-aux:SerialNumber": SERIAL,
        "XMP-photoshop:City": CITY,
        "File:Comment": PROMPT,
    }
    written = [f"-{tag}={value}" for tag, value in tags.items()]
    command = ["exiftool", "-q", "-n", "-overwrite_original", *written, str(path)]
    subprocess.run(command, check=True, timeout=60)
    assert leaks([path.read_bytes()]), "the secrets are in the file"
    return path


def generated(folder: Path) -> Path:
    """A PNG of a generator; its prompt is compressed, too."""
    path = folder / f"{FILE_NAME}.png"
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", INFOTEXT)
    text.add_text("Comment", INFOTEXT, zip=True)
    Image.effect_noise((320, 240), 60).convert("RGB").save(path, pnginfo=text)
    return path


def hostile(photo: bytes) -> Mapping[str, bytes]:
    """Files that fail in every part of the extraction."""
    secret = f"{PROMPT} {SERIAL} {OWNER} {LATITUDE}".encode()
    return {
        "truncated.jpg": photo[: len(photo) // 2],
        "cut in its EXIF.jpg": photo[:900],
        "a text.jpg": secret * 100,
        "a signature.gif": b"GIF89a" + secret,
        "a bomb.png": ztxt_bomb(3),
        "wrong chunks.png": png(chunk(b"iTXt", secret), chunk(b"eXIf", secret), secret),
        "an entity.svg": b'<!DOCTYPE svg [<!ENTITY a "' + secret + b'">]><svg>&a;</svg>',
    }


def leaks(texts: Iterable[bytes], secrets: Iterable[str] = SECRETS) -> set[str]:
    """Return the secrets that are in any of the texts, in the encodings of metadata."""
    return {
        secret
        for text in texts
        for secret in secrets
        for encoding in ("utf-8", "utf-16-le", "utf-16-be")
        if secret.encode(encoding).lower() in text.lower()
    }


def request(
    url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None, by: str = ""
) -> Answer:
    made = urllib.request.Request(url, data=body, headers=dict(headers or {}), method=by or None)
    try:
        with urllib.request.urlopen(made, timeout=_WAIT_S) as answer:
            return Answer(answer.status, str(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, str(error.headers), error.read())


def form(field: str, name: str, content: bytes) -> tuple[dict[str, str], bytes]:
    head = f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
    body = head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + content + b"\r\n--b--\r\n"
    return {"Content-Type": "multipart/form-data; boundary=b"}, body


def tags_of(folder: Path) -> bytes:
    """Return all tags that exiftool reads in the images of a folder, also compressed ones."""
    command = ["exiftool", "-j", "-a", "-u", "-ee", "-n", str(folder)]
    read = subprocess.run(command, capture_output=True, timeout=_WAIT_S, check=False).stdout
    assert len(json.loads(read)) == len(list(folder.iterdir()))
    return read


def upload(base: str, path: Path) -> None:
    headers, body = form("profile_image", path.name, path.read_bytes())
    headers["Authorization"] = f"Bearer {token()}"
    answer = request(f"{base}/users/me", headers=headers, body=body, by="PATCH")
    assert answer.status == 200, answer


def extract(base: str, name: str, content: bytes, route: str) -> Answer:
    headers, body = form(ROUTES[route], f"{FILE_NAME} {name}", content)
    headers["Authorization"] = f"Bearer {KEY}"
    return request(f"{base}{route}", headers=headers, body=body)


def all_addresses(base: str, media_id: int) -> Iterable[tuple[str, str]]:
    for size in ("", "?size=thumbnail", "?size=detail", "?size=original", "?w=300"):
        for accept in (CHROME, "image/webp,*/*", "*/*"):
            yield f"{base}/serve/{media_id}{size}", accept
    page = quote(f"{base}/serve/{media_id}", safe="")
    yield from (
        (f"{base}/info/{media_id}", "*/*"),
        (f"{base}/info?ids={media_id}", "*/*"),
        (f"{base}/oembed?url={page}", "*/*"),
        (f"{base}/", "text/html"),
    )


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("engine", ["exiftool", "pillow"])
def test_no_secret_of_a_file_is_served_or_logged(engine: str, tmp_path: Path) -> None:
    require_exiftool()
    data, log = tmp_path / "data", tmp_path / "log"
    files = [photograph(tmp_path), generated(tmp_path)]
    variables = {
        "SMARTSERVE_LOG__LEVEL": "debug",
        "SMARTSERVE_USERS__JWT_SECRET": SECRET,
        "MEDIA_API_KEY": KEY,
        "SMARTSERVE_METADATA__ENGINE": engine,
        "SMARTSERVE_METADATA__ENGINES": "1",
        "SMARTSERVE_METADATA__TEMP_ROOT": str(tmp_path / "metadata"),
    }
    ids = []
    for path in files:
        done = run("import", path, "--data-dir", data, **variables)
        assert done.returncode == 0, done.stderr
        ids.append(int(done.stdout.split("\t")[0]))
    with (
        log.open("wb") as writing,
        started(["--data-dir", data], variables, stderr=writing.fileno()) as (process, base),
    ):
        for path in files:
            upload(base, path)
        seen = served(base, ids, tmp_path)
        for route in ROUTES:
            for path in files:
                answer = extract(base, path.name, path.read_bytes(), route)
                assert answer.status == 200, answer
                assert leaks([answer.body]), "the caller gets what it has sent"
            for name, content in hostile(files[0].read_bytes()).items():
                assert extract(base, name, content, route).status in (200, 400, 422, 500)
        ledger = SqliteLedger(data / "smartserve.db")
        wait_until(lambda: len(media_ids(ledger)) == 2 * len(files), timeout_s=_WAIT_S)
        seen += served(base, media_ids(ledger), tmp_path)
        assert leaks(seen) == set()
        process.terminate()
        process.wait(_WAIT_S)
    lines = log.read_bytes().splitlines()
    assert {json.loads(line)["event"] for line in lines} >= {"metadata_extracted"}
    assert {line for line in lines if leaks([line], LOGGED_SECRETS)} == set()


def served(base: str, ids: Iterable[int], folder: Path) -> list[bytes]:
    """Return all that the server says about media, after checks that it says something."""
    found = []
    images = Path(tempfile.mkdtemp(dir=folder))
    for media_id in ids:
        for url, accept in all_addresses(base, media_id):
            answer = request(url, headers={"Accept": accept})
            assert answer.status in (200, 400), (url, answer)
            found += [answer.headers.encode(), answer.body]
            if "/serve/" in url and answer.status == 200:
                with Image.open(BytesIO(answer.body)) as image:
                    assert not image.getexif().get_ifd(0x8825), "no position"
                (images / f"{len(found)}.{image.format}").write_bytes(answer.body)
    found.append(tags_of(images))
    found.append(request(f"{base}/metrics").body)
    return found


def media_ids(ledger: Ledger) -> list[int]:
    """Return the ids of all media, imported and uploaded."""
    return [int(one) for (one,) in ledger.rows("SELECT id FROM media_files")]
