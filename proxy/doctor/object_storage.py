"""Checks of the buckets of `[s3]`."""

from __future__ import annotations

from proxy.doctor.check import Findings, area, counted, fail, ok, skip
from proxy.doctor.installation import Installation


@area("object storage")
async def check_object_storage(installation: Installation) -> Findings:
    """List the buckets, and create and delete an object in that of the renditions."""
    section = installation.settings.s3
    if not section.enabled:
        yield skip("[s3] names no bucket")
        return
    faults = await installation.bucket_faults()
    for setting, address, reason, refused in faults:
        advice = "see deploy/OBJECT_STORAGE.md for the rights that the access key needs"
        if not refused:
            advice = "check that the storage runs, and s3.endpoint"
        yield fail(f"{setting}: {address}: {reason}", advice)
    if not faults:
        count = len(section.buckets) + bool(section.renditions)
        yield ok(f"{counted(count, 'bucket')} can be used")
