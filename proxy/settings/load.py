"""Loading: defaults, file and environment laid over each other, and all their faults at once."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from proxy.domain.errors import ConfigurationError
from proxy.settings.sections import ENV_PREFIX, Settings

CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
"""Names the settings file itself; the command line reads it."""


def load_settings(
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Load and check the settings: defaults, then the file, the environment, then ``overrides``.

    Of the environment the variables that the whole platform knows (``MEDIA_API_KEY``) come first,
    and ``SMARTSERVE_*`` wins over them.

    ``overrides`` are what the command line says, as nested mappings.

    Raises:
        ConfigurationError: with all faults, each naming key, value and what is allowed.
    """
    file_values = {} if config is None else _read_file(config)
    env = _Environment(Settings)()
    platform = _merge(file_values, _platform_variables())
    merged = _merge(_merge(platform, env), overrides or {})
    faults = _unknown_variables()
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise ConfigurationError([*faults, *_sentences(error)]) from error
    if faults:
        raise ConfigurationError(faults)
    return settings


_PLATFORM: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "MEDIA_API_KEY": ("main", "key"),
        "SMART_MEDIA_BASE_URL": ("main", "smart_media_base_url"),
        "MAIN_API_URL": ("ingest", "main_api_url"),
        "MAIN_API_KEY": ("ingest", "main_api_key"),
        "MEDIA_BACKEND_URL": ("ingest", "media_backend_url"),
    }
)
"""Variables of the platform's other programs, and the settings that they are here."""


def _platform_variables() -> dict[str, Any]:
    found: dict[str, dict[str, str]] = {}
    for name, (section, key) in _PLATFORM.items():
        if value := os.environ.get(name):
            found.setdefault(section, {})[key] = value
    return found


class _Environment(EnvSettingsSource):
    """The variables; a list may be written as JSON or with commas."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """What is no JSON is taken as it stands, so that its fault is told among all others."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except (ValueError, RecursionError):
            return [part.strip() for part in value.split(",")]


def _read_file(config: Path) -> dict[str, Any]:
    try:
        with config.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError([f"{config}: cannot be read: {error.strerror}"]) from error
    except (ValueError, RecursionError) as error:
        # No TOML; or no UTF-8, or a number or a nesting that is past what Python reads.
        raise ConfigurationError([f"{config}: {error}"]) from error


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another; tables are merged, all else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _unknown_variables() -> list[str]:
    """Misspelt sections: pydantic-settings passes over variables that fit no field.

    It takes names in any case, and so does this.
    """
    return [
        f"{name}: no such setting; sections are {', '.join(sorted(Settings.model_fields))}"
        for name in sorted(os.environ)
        if name.upper().startswith(ENV_PREFIX) and not _known_variable(name.upper())
    ]


def _known_variable(name: str) -> bool:
    section, *keys = name.removeprefix(ENV_PREFIX).lower().split("__")
    if name == CONFIG_VARIABLE:
        return True
    # What stands outside all sections, as data_dir does, has no keys below it.
    return section in Settings.model_fields and not (keys and section == "data_dir")


def _sentences(error: ValidationError) -> list[str]:
    """Each fault as a sentence: key, what is allowed, the value."""
    sentences = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        shown = "" if _secret(fault["loc"]) else f", not {fault['input']!r}"
        if fault["type"] == "extra_forbidden":
            sentences.append(f"{key}: no such setting")
        else:
            sentences.append(f"{key}: {fault['msg'].removeprefix('Value error, ')}{shown}")
    return sentences


_SECRETS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        # Database URLs carry passwords.
        "database": frozenset({"url"}),
        # A key may have been put where its file, or its section, should be named.
        "admin": frozenset({"key", "key_file"}),
        # Those of the header that a collector asks for.
        "tracing": frozenset({"endpoint", "headers"}),
        "vision": frozenset({"key", "key_file", "google", "openai"}),
        "main": frozenset({"url", "key", "key_file"}),
        "users": frozenset({"jwt_secret", "jwt_secret_file", "jwt_public_key_file"}),
        "ingest": frozenset({"main_api_key", "main_api_key_file"}),
    }
)
"""By section, the settings that are never printed."""


def _secret(loc: Sequence[int | str]) -> bool:
    """Whether a setting is never printed; nor is what stands for the whole of its section."""
    section, *keys = map(str, loc)
    secrets = _SECRETS.get(section)
    # Below headers their own names follow, which may be any.
    return secrets is not None and (not keys or keys[-1] in secrets or keys[0] == "headers")
