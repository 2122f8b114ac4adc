"""The table of the checks: area by area, in the order in which they are made and told.

The third column is the alert of deploy/OPERATING.md that has more to say about it.
"""

from __future__ import annotations

from proxy.doctor import (
    Check,
    database,
    front,
    installation,
    machine,
    originals,
    picture,
    renditions,
    running,
    serving,
    uploads,
    workers,
)
from proxy.doctor.database import DatabaseFacts
from proxy.doctor.front import ReverseProxyFacts
from proxy.doctor.http_client.figures import Figures
from proxy.doctor.installation import InstallationFacts
from proxy.doctor.machine import MachineFacts
from proxy.doctor.originals import OriginalsFacts
from proxy.doctor.picture import ImageFacts
from proxy.doctor.renditions import RenditionsFacts
from proxy.doctor.serving import ImageProbe, ServerFacts
from proxy.doctor.uploads import UploadsFacts
from proxy.doctor.workers import WorkerFacts

INSTALLATION: tuple[Check[InstallationFacts], ...] = (
    Check("settings", installation.judge_settings),
    Check("key files", installation.judge_keys, "Somebody guesses keys"),
    Check("clock", installation.judge_year),
)
MACHINE: tuple[Check[MachineFacts], ...] = (
    Check("user", machine.judge_user),
    Check("descriptors", machine.judge_descriptors, "Out of descriptors or connections"),
    Check("memory", machine.judge_memory, "Workers keep dying"),
    Check("processors", machine.judge_processors, "Answers are slow"),
)
DATABASE: tuple[Check[DatabaseFacts], ...] = (
    Check("database", database.judge_reach, "The database is away"),
    Check("database schema", database.judge_schema),
    Check("database rights", database.judge_rights, "The database is away"),
    Check("database clock", database.judge_clock),
    Check("database connections", database.judge_connections, "The database is away"),
)
ORIGINALS: tuple[Check[OriginalsFacts], ...] = (
    Check("originals", originals.judge_root, "Originals cannot be opened"),
    Check("newest originals", originals.judge_files, "Originals cannot be opened"),
)
RENDITIONS: tuple[Check[RenditionsFacts], ...] = (
    Check("renditions", renditions.judge_write, "The rendition disk fails"),
    Check("renditions rename", renditions.judge_rename, "The rendition disk fails"),
    Check("renditions room", renditions.judge_room, "The rendition disk fails"),
    Check("renditions inodes", renditions.judge_inodes, "The rendition disk fails"),
    Check("renditions use", renditions.judge_use, "The hit ratio falls"),
    Check("renditions leftovers", renditions.judge_leftovers),
)
WORKERS: tuple[Check[WorkerFacts], ...] = (
    Check("worker", workers.judge_render, "Workers are missing"),
    Check("worker sandbox", workers.judge_sandbox, "The sandbox has a gap"),
    Check("worker formats", workers.judge_formats),
    Check("versions", workers.judge_versions),
)
UPLOADS: tuple[Check[UploadsFacts], ...] = (
    Check("main API", uploads.judge_main_api, "The main API cannot be asked"),
    Check("upload queue", uploads.judge_queue, "Uploads are stuck"),
    Check("vision keys", uploads.judge_vision),
    Check("tesseract", uploads.judge_text),
)
ROW: tuple[Check[ImageFacts], ...] = (
    Check("picture row", picture.judge_row),
    Check("picture original", picture.judge_file, "Originals cannot be opened"),
    Check("picture decoded", picture.judge_decoding),
)
"""Of a picture that is named alone."""
SERVER: tuple[Check[ServerFacts], ...] = (
    Check("server", serving.judge_health, "The server is not ready"),
    Check("server readiness", serving.judge_readiness, "The server is not ready"),
    Check("server version", serving.judge_version),
    Check("server clock", serving.judge_clock),
)
RUNNING: tuple[Check[Figures], ...] = (
    Check("hits", running.judge_hits, "Answers are slow"),
    Check("loop", running.judge_loop, "Answers are slow"),
    Check("server workers", running.judge_workers, "Workers keep dying"),
    Check("server sandbox", running.judge_sandbox, "The sandbox has a gap"),
    Check("refused pictures", running.judge_refused, "Workers keep dying"),
    Check("rejections", running.judge_rejections, "Renders are turned away"),
    Check("disk failures", running.judge_disk, "The rendition disk fails"),
    Check("database failures", running.judge_database, "The database is away"),
    Check("source failures", running.judge_sources, "Originals cannot be opened"),
    Check("upload steps", running.judge_steps, "Steps of uploads hang"),
    Check("errors", running.judge_errors, "Many errors"),
)
PICTURE: tuple[Check[ImageProbe], ...] = (
    Check("picture formats", serving.judge_formats),
    Check("picture Vary", serving.judge_vary),
    Check("picture 304", serving.judge_revalidation),
    Check("picture HEAD", serving.judge_head),
    Check("picture lifetime", serving.judge_lifetime, "Originals are stood in for"),
    Check("picture Range", serving.judge_range),
)
FRONT: tuple[Check[ReverseProxyFacts], ...] = (
    Check("front", front.judge_reach),
    Check("front formats", front.judge_formats),
    Check("front query", front.judge_query),
    Check("front Vary", front.judge_vary),
    Check("front ETag", front.judge_etag),
    Check("front lifetime", front.judge_lifetime),
    Check("front Range", front.judge_range),
    Check("front HEAD", front.judge_head),
    Check("front body", front.judge_body),
    Check("front closed", front.judge_closed, "Somebody guesses keys"),
    Check("front forwarded", front.judge_forwarded, "Somebody guesses keys"),
    Check("front uploads", front.judge_uploads, "Uploads cannot be stored"),
)
