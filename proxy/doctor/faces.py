"""Checks of face detection: the process is started, and finds the face of a sample."""

from __future__ import annotations

import os
from pathlib import Path

import proxy
from proxy.doctor.check import Findings, area, counted, fail, reason_of, skip, warn
from proxy.doctor.installation import Installation
from proxy.domain.errors import SmartserveError
from proxy.domain.worker_protocol import FaceJob
from proxy.rendering import face_model

_SAMPLE = Path(proxy.__file__).parent / "samples" / "kodak-15.jpg"


@area("face detector")
async def check_faces(installation: Installation) -> Findings:
    """Start the process and detect the faces of a sample."""
    settings = installation.settings
    if not settings.faces.enabled:
        yield skip("faces.enabled = false")
        return
    if reason := face_model.missing(settings.face_directory):
        yield warn(reason, "until then crops keep the point of interest, and may cut faces")
        return
    limits = settings.limits.to_limits()
    if "jpeg" not in limits.source_types:
        yield skip("limits.source_types does not allow JPEG")
        return
    sample = os.open(_SAMPLE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        async with installation.face_worker() as pool:
            faces = (await pool.run(FaceJob(limits), sample)).faces
    except SmartserveError as error:
        yield fail(reason_of(error), "crops keep the point of interest; see the server's log")
        return
    finally:
        os.close(sample)
    advice = "install the versions in requirements.lock, and run `smartserve models install`"
    text = f"finds {counted(len(faces), 'face')} in the sample"
    yield fail(text, advice, when=len(faces) != 1)
