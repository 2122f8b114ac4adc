"""The installation itself: its settings, the files of its keys, the clock of its machine."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from proxy.doctor import Diagnosis, failed, skipped, warned, well
from proxy.doctor.figures import counted
from proxy.settings import Settings

_OLDEST, _NEWEST = datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""A clock outside of these is wrong: this program is younger, and nobody runs it then."""
_OTHERS = stat.S_IROTH | stat.S_IWOTH


StartupFaults = Callable[[Settings], list[str]]
"""The checks that the server makes before it starts; each fault is a sentence."""


@dataclass(frozen=True, slots=True)
class InstallationFacts:
    """What was seen of settings, keys and clock."""

    settings: str
    """Where they came from."""
    faults: tuple[str, ...]
    keys: Mapping[str, bool]
    """By what names it: whether others than its owner and group can read, or write, the file."""
    unreadable: Mapping[str, str]
    """Files of keys that cannot be looked at, and why."""
    now: datetime


async def look(
    settings: Settings, config: Path | None, startup_faults: StartupFaults
) -> InstallationFacts:
    """Collect the facts; resolves host names."""
    return await asyncio.to_thread(_look, settings, config, startup_faults)


def _look(
    settings: Settings, config: Path | None, startup_faults: StartupFaults
) -> InstallationFacts:
    files = dict(_key_files(settings))
    keys, unreadable = {}, {}
    try:
        files |= {str(path): path for path in _own_keys(settings.key_directory)}
    except OSError as error:
        unreadable[str(settings.key_directory)] = error.strerror or str(error)
    for name, path in files.items():
        try:
            keys[name] = open_to_all(path)
        except OSError as error:
            unreadable[name] = error.strerror or str(error)
    source = str(config) if config else "defaults and environment"
    faults = tuple(startup_faults(settings))
    return InstallationFacts(source, faults, keys, unreadable, datetime.now(UTC))


def _key_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    """What names a file with a key, and where it is; a public key is for everybody."""
    for name, file in (
        ("admin.key_file", settings.admin.key_file),
        ("main.key_file", settings.main.key_file),
        ("users.jwt_secret_file", settings.users.jwt_secret_file),
        ("ingest.main_api_key_file", settings.ingest.main_api_key_file),
        ("vision.google.key_file", settings.vision.google.key_file),
        ("vision.openai.key_file", settings.vision.openai.key_file),
    ):
        if file:
            yield name, Path(file)


def _own_keys(folder: Path) -> list[Path]:
    """The keys that the server made for itself; raises OSError where it may not be looked into."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except FileNotFoundError:
        return []


def open_to_all(path: Path) -> bool:
    """Whether anybody on the machine can read or write a file: its folders count too."""
    whole = path.resolve(strict=True)
    if not whole.stat().st_mode & _OTHERS:
        return False
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in whole.parents)


def judge_settings(seen: InstallationFacts) -> Diagnosis:
    """Whether they are valid, and what they name is there, as `check-config` has it."""
    if seen.faults:
        return failed("; ".join(seen.faults), "mend each of these settings, then restart")
    return well(f"{seen.settings}: valid")


def judge_keys(seen: InstallationFacts) -> Diagnosis:
    """Whether strangers on the machine can read keys."""
    if seen.unreadable:
        told = "; ".join(f"{name}: {why}" for name, why in seen.unreadable.items())
        advice = "each has to be readable for the server's user, and nobody else: chown, chmod 400"
        return failed(told, advice)
    if exposed := [name for name, others in seen.keys.items() if others]:
        advice = (
            "chmod o-rwx the file of each, and put a new key in where others use the machine;"
            " in Kubernetes defaultMode: 0440 for the secret"
        )
        return warned(f"everybody on this machine can read: {', '.join(exposed)}", advice)
    if not seen.keys:
        return skipped("no key is in a file")
    return well(f"{counted(len(seen.keys), 'file')}, none open to others")


def judge_year(seen: InstallationFacts) -> Diagnosis:
    """Whether the clock can be right at all."""
    told = f"{seen.now:%Y-%m-%d %H:%M:%S} UTC"
    if _OLDEST <= seen.now <= _NEWEST:
        return well(told)
    advice = (
        "set the clock (timedatectl set-ntp true, chronyc makestep): tokens of users run out by"
        " it, and Date and max-age are wrong with it"
    )
    return failed(told, advice)
