"""The areas of checks, in the order in which they are run and reported."""

from __future__ import annotations

from proxy.doctor.access import check_access
from proxy.doctor.check import Finding
from proxy.doctor.cluster import check_cluster
from proxy.doctor.database import check_database
from proxy.doctor.faces import check_faces
from proxy.doctor.http_originals import check_http_originals
from proxy.doctor.installation import Installation
from proxy.doctor.machine import check_renditions, check_settings
from proxy.doctor.metadata import check_metadata
from proxy.doctor.object_storage import check_object_storage
from proxy.doctor.originals import check_image, check_originals
from proxy.doctor.reverse_proxy import check_proxy
from proxy.doctor.server import check_server
from proxy.doctor.uploads import check_uploads
from proxy.doctor.workers import check_workers

AREAS = (
    check_settings,
    check_database,
    check_originals,
    check_http_originals,
    check_object_storage,
    check_cluster,
    check_access,
    check_renditions,
    check_workers,
    check_faces,
    check_metadata,
    check_uploads,
    # Chooses the image that the next two areas request, instead of the newest.
    check_image,
    # Its responses are compared with those of the proxy.
    check_server,
    check_proxy,
)


async def examine(installation: Installation) -> list[Finding]:
    """Run all checks. Areas run one after the other, so that none is slow because of another."""
    # An image that is displayed needs no explanation.
    skipped = None if installation.media_id else check_image
    return [
        finding for area in AREAS if area is not skipped for finding in await area.run(installation)
    ]
