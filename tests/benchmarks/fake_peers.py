"""Stands in for the binaries of imgproxy and imagor: ``fake_peers.py imgproxy|imagor [OPTIONS]``.

Reads the settings and answers the URLs that `peers` uses of them, so that the wiring can be tested
where the binaries cannot be installed. The settings that it received are in the headers of each
response.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyvips

_IMGPROXY = re.compile(
    r"/unsafe/rs:(?P<fit>fit|fill):(?P<side>\d+):(?P=side)(?:/g:ce)?(?:/q:(?P<quality>\d+))?"
    r"/plain/local:///(?P<name>[^/@]+)@(?P<format>\w+)"
)
_IMAGOR = re.compile(
    r"/unsafe/(?P<fit>fit-in/)?(?P<side>\d+)x(?P=side)/filters:format\((?P<format>\w+)\)"
    r"(?::quality\((?P<quality>\d+)\))?/(?P<name>[^/]+)"
)
_SAVERS = {"avif": "heifsave_buffer", "webp": "webpsave_buffer", "jpeg": "jpegsave_buffer"}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the program was started with."""

    host: str
    port: int
    root: Path
    urls: re.Pattern[str]
    avif_speed: str


def imgproxy() -> Settings:
    """Return the settings from the environment."""
    host, _, port = os.environ["IMGPROXY_BIND"].partition(":")
    root = Path(os.environ["IMGPROXY_LOCAL_FILESYSTEM_ROOT"])
    speed = os.environ.get("IMGPROXY_AVIF_SPEED", "")
    return Settings(host, int(port), root, _IMGPROXY, speed)


def imagor(options: list[str]) -> Settings:
    """Return the settings from the command line."""
    parser = argparse.ArgumentParser(prog="imagor", allow_abbrev=False)
    parser.add_argument("-host", required=True)
    parser.add_argument("-port", type=int, required=True)
    parser.add_argument("-imagor-unsafe", action="store_true", required=True)
    parser.add_argument("-file-loader-base-dir", type=Path, required=True)
    parser.add_argument("-file-result-storage-base-dir", type=Path)
    parser.add_argument("-vips-avif-speed", default="")
    given = parser.parse_args(options)
    root, speed = given.file_loader_base_dir, given.vips_avif_speed
    return Settings(given.host, given.port, root, _IMAGOR, speed)


def rendered(settings: Settings, target: str) -> tuple[str, bytes] | None:
    """Return media type and body of a rendition; None if it is no URL of an original."""
    match = settings.urls.fullmatch(target)
    if match is None or not (path := settings.root / match["name"]).is_file():
        return None
    side, fmt = int(match["side"]), match["format"]
    cropped = match["fit"] in {"fill", None}
    way = {"crop": "centre"} if cropped else {"size": "down"}
    image = pyvips.Image.thumbnail(str(path), side, height=side, **way)
    kind = {"compression": "av1", "effort": 0} if fmt == "avif" else {}
    quality = {"Q": int(match["quality"] or 75)}
    return f"image/{fmt}", pyvips.Operation.call(_SAVERS[fmt], image, **kind, **quality)


def serve(settings: Settings) -> None:
    """Serve until the process ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = rendered(settings, self.path)
            kind, body = found or ("text/plain", b"no such image")
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-AVIF-Speed", settings.avif_speed)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    ThreadingHTTPServer((settings.host, settings.port), Handler).serve_forever()


if __name__ == "__main__":
    serve(imgproxy() if sys.argv[1] == "imgproxy" else imagor(sys.argv[2:]))
