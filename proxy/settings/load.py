"""Loading the settings: defaults, file, environment and command line, merged in this order."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from proxy.domain.errors import ConfigurationError
from proxy.settings.root import ENV_PREFIX, Settings

CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
"""Variable with the path of the settings file; the command line reads it."""

_PLATFORM: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "MEDIA_API_KEY": ("main", "key"),
        "SMART_MEDIA_BASE_URL": ("main", "smart_media_base_url"),
        "MAIN_API_URL": ("ingest", "main_api_url"),
        "MAIN_API_KEY": ("ingest", "main_api_key"),
        "MEDIA_BACKEND_URL": ("ingest", "media_backend_url"),
    }
)
"""Variables of the platform's other programs, and the settings that they set here."""

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "encoders.smallest_wins": "encoders.prefer_smallest",
        **{
            f"encoders.{fmt}.final.{old}": f"encoders.{fmt}.final.{new}"
            for fmt in ("jpeg", "webp", "avif")
            for old, new in (("lowest", "min_quality"), ("highest", "max_quality"))
        },
        "lifetimes.unsettled_s": "lifetimes.processing_s",
        "vision.picture_side": "vision.image_side",
        **{
            f"vision.{provider}.{old}": f"vision.{provider}.{new}"
            for provider in ("google", "openai")
            for old, new in (("first_wait_s", "backoff_s"), ("max_wait_s", "max_backoff_s"))
        },
        "ingest.at_once": "ingest.concurrency",
        "ingest.idle_s": "ingest.poll_interval_s",
        "ingest.first_wait_s": "ingest.step_backoff_s",
        "ingest.max_wait_s": "ingest.max_step_backoff_s",
        "ingest.heal_after_s": "ingest.retry_backoff_s",
        "ingest.max_heal_wait_s": "ingest.max_retry_backoff_s",
        "ingest.max_heals": "ingest.max_retries",
        "ingest.heals_per_cycle": "ingest.retries_per_cycle",
        "ingest.ask_again_s": "ingest.analysis_retry_s",
    }
)
"""Old names that work for one more release, in files and variables, and their new names."""


def load_settings(
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Return the validated settings; a later source overrides an earlier one key by key.

    The sources are: defaults, file, variables of the platform (``MEDIA_API_KEY``), ``SMARTSERVE_*``
    variables, and ``overrides``, the nested values of the command line. `Settings.renamed` lists
    the old names that were used; the caller logs them once logging is configured.

    Raises:
        ConfigurationError: with every fault: key, allowed values and, unless secret, the value.
    """
    names = _OldNames()
    values: dict[str, Any] = {} if config is None else names.replace_in_tree(_read_file(config))
    # The file may be shared by several installations; variables belong to one of them.
    values = _merge(values, _platform_variables())
    values = _merge(values, names.replace_in_tree(_Environment(names)()))
    values = _merge(values, overrides or {})
    # Not raised yet: all faults are reported together.
    faults = [*_unknown_variables(), *names.faults]
    try:
        settings = Settings(**values)
    except ValidationError as error:
        # A fault names the new name only: the reader has to find the old one in the file.
        hints = [f"{old}: was renamed to {new}" for old, new in names.used.items()]
        raise ConfigurationError([*faults, *_sentences(error), *hints]) from error
    if faults:
        raise ConfigurationError(faults)
    return settings.with_renamed(names.used)


class _OldNames:
    """Replaces old names of settings by the new ones, and records those that were used."""

    def __init__(self) -> None:
        self.used: dict[str, str] = {}
        self.faults: list[str] = []

    def replace_in_tree(self, values: dict[str, Any]) -> dict[str, Any]:
        """Rename the keys of nested values in place."""
        for old, new in RENAMED.items():
            *path, key = old.split(".")
            section: object = values
            for part in path:
                section = section.get(part) if isinstance(section, dict) else None
            self._replace(section, key, new.rpartition(".")[2], old)
        return values

    def replace_in_variables(self, variables: dict[str, str | None]) -> dict[str, str | None]:
        """Rename lower-case environment variables in place."""
        for old, new in RENAMED.items():
            self._replace(variables, _variable(old), _variable(new), old)
        return variables

    def _replace(self, given: object, key: str, new_key: str, old: str) -> None:
        if not isinstance(given, dict) or key not in given:
            return
        if new_key in given:
            self.faults.append(f"{old}: was renamed to {RENAMED[old]}, and both are set; remove it")
        given[new_key] = given.pop(key)
        self.used[old] = RENAMED[old]


def _variable(setting: str) -> str:
    return f"{ENV_PREFIX}{setting.replace('.', '__')}".lower()


def _platform_variables() -> dict[str, Any]:
    found: dict[str, dict[str, str]] = {}
    for name, (section, key) in _PLATFORM.items():
        # An empty variable counts as not set, as for SMARTSERVE_ variables.
        if value := os.environ.get(name):
            found.setdefault(section, {})[key] = value
    return found


class _Environment(EnvSettingsSource):
    """Environment variables; a list is JSON, or its items separated by commas."""

    def __init__(self, names: _OldNames) -> None:
        super().__init__(
            Settings,  # type: ignore[arg-type] # only its fields and model_config are read
            env_prefix=ENV_PREFIX,
            env_nested_delimiter="__",
            env_ignore_empty=True,
        )
        # Before decoding, which depends on the type of the field that a variable names.
        self.env_vars = names.replace_in_variables(dict(self.env_vars))

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Return decoded JSON, or the list of parts: a fault is then reported with all others."""
        try:
            # RecursionError: JSON may nest deeper than the parser supports.
            decoded = super().decode_complex_value(field_name, field, value)
        except (ValueError, RecursionError):
            return [part.strip() for part in value.split(",")]
        # One number is JSON, too: the only item of a list.
        return [decoded] if isinstance(decoded, int | float) else decoded


def _read_file(config: Path) -> dict[str, Any]:
    try:
        with config.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError([f"{config}: cannot be read: {error.strerror}"]) from error
    except (ValueError, RecursionError) as error:
        # Not TOML, not UTF-8, or numbers and nesting beyond Python's limits.
        raise ConfigurationError([f"{config}: {error}"]) from error


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` overridden by ``over``; nested mappings are merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _unknown_variables() -> list[str]:
    """Report variables of unknown sections, which pydantic-settings ignores."""
    sections = ", ".join(sorted(Settings.model_fields))
    return [
        f"{name}: no such setting; sections are {sections}"
        for name in sorted(os.environ)
        if name.upper().startswith(ENV_PREFIX) and not _is_known(name.upper())
    ]


def _is_known(name: str) -> bool:
    section, *keys = name.removeprefix(ENV_PREFIX).lower().split("__")
    # data_dir is no section and has no keys.
    known = section in Settings.model_fields and not (keys and section == "data_dir")
    return known or name == CONFIG_VARIABLE


def _sentences(error: ValidationError) -> list[str]:
    """Return each fault as a sentence: key, what is allowed, and the value unless it is secret."""
    sentences = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        shown = "" if _is_secret(fault["loc"]) else f", not {fault['input']!r}"
        if fault["type"] == "extra_forbidden":
            sentences.append(f"{key}: no such setting")
        else:
            sentences.append(f"{key}: {fault['msg'].removeprefix('Value error, ')}{shown}")
    return sentences


def _is_secret(loc: Sequence[int | str]) -> bool:
    """Return whether a value must not be printed: that of a field with ``repr=False``.

    The same holds for a value in place of a whole section: it may be a key.
    """
    model: type[BaseModel] = Settings
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is None:
            return False
        if not field.repr:
            return True
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return False
        model = field.annotation
    return True
