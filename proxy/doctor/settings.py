"""Checks of the settings, the key files and this machine's clock."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from proxy.doctor.check import Finding, fail, ok, skip, warn
from proxy.doctor.formatting import counted
from proxy.doctor.installation import Installation
from proxy.settings import Settings

_EARLIEST, _LATEST = datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""A clock outside of these is wrong: this program was written in 2026."""
_OTHERS = stat.S_IROTH | stat.S_IWOTH


def check_settings(installation: Installation) -> Finding:
    """Report the faults that would keep the server from starting, as ``check-config`` does."""
    if faults := installation.startup_faults(installation.settings):
        return fail("; ".join(faults), "correct each of these settings, then restart the server")
    return ok(f"{installation.config or 'defaults and environment'}: valid")


def check_key_files(installation: Installation) -> Finding:
    """Report key files that every user of this machine can read or write."""
    exposed: list[str] = []
    unreadable: list[str] = []
    count = 0
    for name, path in _key_files(installation.settings):
        count += 1
        try:
            if open_to_all(path):
                exposed.append(name)
        except OSError as error:
            unreadable.append(f"{name}: {error.strerror}")
    # The server would not start, or not with this key.
    if unreadable:
        advice = "make each readable for the server's user and for nobody else: chown, chmod 400"
        return fail("; ".join(unreadable), advice)
    if exposed:
        advice = (
            "chmod o-rwx each file, and replace the key if others use this machine;"
            " in Kubernetes set defaultMode: 0440 for the secret"
        )
        return warn(f"every user of this machine can read: {', '.join(exposed)}", advice)
    return ok(f"{counted(count, 'file')}, none open to others") if count else skip("no key files")


def _key_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Yield files with secrets, each with the setting that names it; public keys are not secret."""
    for name, file in (
        ("admin.key_file", settings.admin.key_file),
        ("main.key_file", settings.main.key_file),
        ("users.jwt_secret_file", settings.users.jwt_secret_file),
        ("ingest.main_api_key_file", settings.ingest.main_api_key_file),
        ("vision.google.key_file", settings.vision.google.key_file),
        ("vision.openai.key_file", settings.vision.openai.key_file),
    ):
        # A public key (users.jwt_public_key_file) is not listed.
        if file:
            yield name, Path(file)
    # The server creates keys of its own here.
    directory = settings.key_directory
    for path in sorted(directory.iterdir()) if directory.exists() else ():
        if path.is_file():
            yield str(path), path


def open_to_all(path: Path) -> bool:
    """Return whether every user can read or write a file: its parent folders must allow it too."""
    # The mode of a link means nothing.
    resolved = path.resolve(strict=True)
    if not resolved.stat().st_mode & _OTHERS:
        return False
    # Without search permission on every parent, others cannot reach the file.
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in resolved.parents)


def check_clock(_installation: Installation, *, now: datetime | None = None) -> Finding:
    """Report a clock that cannot be right."""
    now = now or datetime.now(UTC)
    text = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if _EARLIEST <= now <= _LATEST:
        return ok(text)
    advice = (
        "set the clock (timedatectl set-ntp true, chronyc makestep): it decides when tokens of"
        " users expire, and Date and max-age depend on it"
    )
    return fail(text, advice)
