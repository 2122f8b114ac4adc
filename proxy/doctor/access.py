"""Check of private images: somebody must be able to sign their addresses."""

from __future__ import annotations

import asyncio

from proxy.doctor.check import Finding, Findings, area, counted, fail, ok, skip
from proxy.doctor.installation import Installation
from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.media import Visibility
from proxy.domain.signature import MediaAccess
from proxy.settings import Settings, url_keys
from proxy.settings.secrets import MAKE_KEY
from proxy.storage.database.choices import count_private


@area("private images")
async def check_access(installation: Installation) -> Findings:
    """Report private images without keys, and keys that cannot be read."""
    settings = installation.settings
    # Raises ConfigurationError for a key that cannot be read or is too short.
    keys = await asyncio.to_thread(url_keys, settings.access)
    try:
        async with installation.rows() as rows:
            private = await count_private(rows)
    except DatabaseUnavailable:
        # The area of the database has reported it.
        yield skip("the database cannot be queried")
        return
    yield judge_access(settings, private, can_sign=keys.can_sign)


def judge_access(settings: Settings, private: int, *, can_sign: bool) -> Finding:
    """Report who may see ``private`` images, and those that a default makes private."""
    types = settings.access.visibility_by_type().items()
    defaults = [name for name, visibility in types if visibility is Visibility.PRIVATE]
    text = f"{counted(private, 'image')} made private"
    if defaults:
        text = f"{text}; private by default: {', '.join(defaults)}"
    if can_sign:
        return ok(f"{text}; addresses can be signed")
    if not private and not defaults:
        return ok(f"{text}, and no key is needed")
    advice = (
        f"nobody can see them: set SMARTSERVE_ACCESS__KEYS or access.key_files ({MAKE_KEY}), and"
        " restart"
    )
    return fail(f"{text}; there is no key", advice)


def without_keys(settings: Settings) -> MediaAccess:
    """Return who may see an image without a signature."""
    return MediaAccess(defaults=settings.access.visibility_by_type())
