"""All settings as a list: name, default, what is allowed, and what a settings file says of each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from proxy.settings.base import Section
from proxy.settings.sections import ENV_PREFIX, Settings

Keys = tuple[str, ...]

_HEADER = re.compile(r"\[([\w.]+)\]")
_KEY = re.compile(r"(\w+) = ")
_LARGE = 10_000
"""From here on numbers have underscores, as in ``config/smartserve.toml``."""
_UNITS = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))


@dataclass(frozen=True, slots=True)
class SettingEntry:
    """One setting."""

    path: Keys
    default: str
    """As TOML has it."""
    allowed: str
    note: str = ""

    @property
    def name(self) -> str:
        """As it is spoken of: ``server.port``."""
        return ".".join(self.path)

    @property
    def amount(self) -> str:
        """The default of a number of bytes in a larger unit; empty for all else."""
        return _amount(int(self.default)) if self.name.endswith("_bytes") else ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the settings file, and what is set in it."""

    path: Keys
    """Empty for what stands outside all tables."""
    purpose: str
    settings: tuple[SettingEntry, ...]

    def within(self, name: str) -> bool:
        """Whether it is the table of this name (``encoders``), or one in it."""
        return f"{'.'.join(self.path)}.".startswith(f"{name}.")

    @property
    def variables(self) -> str:
        """What the names of its variables begin with."""
        return ENV_PREFIX + "".join(f"{part}__" for part in self.path).upper()


def tables(notes: Mapping[Keys, str] | None = None) -> list[Table]:
    """All tables with their defaults, in the order of the code.

    ``notes`` say by the paths of settings what these are for.
    """
    schema = Settings.model_json_schema()
    return list(_tables((), Settings(), schema, schema["$defs"], notes or {}))


def _tables(
    path: Keys,
    model: BaseModel,
    schema: Mapping[str, Any],
    definitions: Mapping[str, Any],
    notes: Mapping[Keys, str],
) -> Iterator[Table]:
    """The table of one section, and then those of the sections in it."""
    names = type(model).model_fields
    below = {name: _resolved(schema["properties"][name], definitions) for name in names}
    found, inner = [], []
    for name in names:
        value, here = getattr(model, name), (*path, name)
        if isinstance(value, BaseModel) or _names_sections(below[name]):
            inner.append((here, value, below[name]))
        else:
            allowed = _allowed(below[name], definitions)
            found.append(SettingEntry(here, _toml(value), allowed, notes.get(here, "")))
    if found:
        yield Table(path, _purpose(type(model)), tuple(found))
    for here, value, described in inner:
        if isinstance(value, BaseModel):
            yield from _tables(here, value, described, definitions, notes)
        else:
            yield _named(here, value, described, definitions, notes)


def _names_sections(field: Mapping[str, Any]) -> bool:
    """Whether it is a mapping of names to sections, and not of names to plain values."""
    return "$ref" in field.get("additionalProperties", {})


def _named(
    path: Keys,
    values: Mapping[str, Section],
    schema: Mapping[str, Any],
    definitions: Mapping[str, Any],
    notes: Mapping[Keys, str],
) -> Table:
    """The table of a mapping, whose names are its owner's to choose."""
    fields = _resolved(schema["additionalProperties"], definitions)["properties"]
    parts = "; ".join(f"{name}: {_allowed(one, definitions)}" for name, one in fields.items())
    listed = tuple(
        SettingEntry((*path, name), _inline(value), "as above", notes.get((*path, name), ""))
        for name, value in values.items()
    )
    purpose = f"Names of your own, of which a file has all or none. Each has {parts}."
    return Table(path, purpose, listed)


def _purpose(model: type[BaseModel]) -> str:
    if model is Settings:
        return "At the top of the file."
    return (model.__doc__ or "").strip().partition("\n")[0].replace("``", "`")


def _resolved(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """A field's description with what it refers to in its place."""
    if "$ref" not in field:
        return field
    referred: Mapping[str, Any] = definitions[field["$ref"].rpartition("/")[2]]
    return referred


def _allowed(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What may stand there, in words, from the JSON schema of a field."""
    field = _resolved(field, definitions)
    if "anyOf" in field:
        return " or ".join(_allowed(one, definitions) for one in field["anyOf"])
    if field.get("type") == "object":
        return f"names, each with {_allowed(field['additionalProperties'], definitions)}"
    if field.get("type") == "array":
        return f"list of {_allowed(field['items'], definitions)}"
    if choices := field.get("enum", [field["const"]] if "const" in field else []):
        return ", ".join(json.dumps(one) for one in choices)
    return _plain(field)


def _plain(field: Mapping[str, Any]) -> str:
    """The same for what is neither a list nor a choice."""
    if field["type"] == "string":
        longest = field.get("maxLength")
        return f"text of {longest} characters at most" if longest else "text"
    return {"boolean": "true, false", "null": "left out"}.get(field["type"]) or _range(field)


def _range(field: Mapping[str, Any]) -> str:
    """The bounds of a number."""
    if "minimum" in field and "maximum" in field:
        return f"{_number(field['minimum'])} to {_number(field['maximum'])}"
    words = {
        "minimum": "{} or more",
        "exclusiveMinimum": "above {}",
        "maximum": "{} at most",
        "exclusiveMaximum": "below {}",
    }
    bounds = [said.format(_number(field[key])) for key, said in words.items() if key in field]
    return ", ".join(bounds) or "number"


def _number(value: float) -> str:
    if value != int(value):
        return repr(value)
    return f"{int(value):_}" if value >= _LARGE else str(int(value))


def _toml(value: object) -> str:
    """A value as a settings file has it."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml(one) for one in value)}]"
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {_toml(one)}' for name, one in value.items())}}}"
    return json.dumps(str(value))


def _amount(size: int) -> str:
    """`` (1.5 GiB)``, in the largest unit that says it in halves; nothing where none does."""
    for unit, name in _UNITS:
        if size >= unit and size * 2 % unit == 0:
            return f" ({size / unit:g} {name})"
    return ""


def _inline(value: BaseModel) -> str:
    given = value.model_dump(mode="json", exclude_none=True)
    return f"{{ {', '.join(f'{name} = {_toml(one)}' for name, one in given.items())} }}"


def notes_in(text: str) -> dict[Keys, str]:
    """What the comments of a settings file say of each setting: those that stand right above it."""
    found: dict[Keys, str] = {}
    table: Keys = ()
    above: list[str] = []
    for line in text.splitlines():
        if header := _HEADER.fullmatch(line):
            table = tuple(header[1].split("."))
        elif key := _KEY.match(line):
            found[*table, key[1]] = " ".join(above)
        above = [*above, line.removeprefix("# ")] if line.startswith("# ") else []
    return found


def markdown(listed: Iterable[Table]) -> str:
    """Tables of Markdown, each below a heading of its own."""
    return "\n\n".join(_markdown_table(table) for table in listed) + "\n"


def _markdown_table(table: Table) -> str:
    noted = any(one.note for one in table.settings)
    head = ["setting", "default", "allowed", *(["what it is"] if noted else [])]
    rows = [head, ["---"] * len(head)]
    for one in table.settings:
        note = [_cell(one.note)] if noted else []
        rows.append([f"`{one.name}`", f"`{one.default}`{one.amount}", _cell(one.allowed), *note])
    title = f"[{'.'.join(table.path)}]" if table.path else "Outside all tables"
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"## {title}\n\n{table.purpose} `{table.variables}…`\n\n{lines}"


def _cell(text: str) -> str:
    """Text that stays in its cell and is no markup."""
    return re.sub(r"([|<*\[\]])", r"\\\1", text)
