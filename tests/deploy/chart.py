"""``python -m tests.deploy.chart``: writes the schema of the settings into the Helm chart.

The rest of ``values.schema.json`` is written by hand.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from proxy.settings import Settings
from tests.deploy.programs import DEPLOY

CHART = DEPLOY / "helm" / "smartserve"
SCHEMA = CHART / "values.schema.json"
_PREFIX = "settings."
_DROPPED = frozenset({"title", "description", "default"})
_PUBLIC = frozenset({"endpoint"})
"""Fields that are not printed, because they may contain a password, and usually do not."""

Schema = dict[str, Any]


def schema() -> str:
    """Return the schema of the chart's values with the settings of this version."""
    whole: Schema = json.loads(SCHEMA.read_text())
    settings = Settings.model_json_schema()
    models = {model.__name__: model for model in _models(Settings)}
    definitions = settings.pop("$defs")
    for name, definition in definitions.items():
        _remove_secrets(definition, models.get(name))
    settings["description"] = "Settings of smartserve, except secrets: see config/README.md."
    whole["properties"]["settings"] = _plain(settings) | {"description": settings["description"]}
    whole["$defs"] = {f"{_PREFIX}{name}": _plain(one) for name, one in sorted(definitions.items())}
    return json.dumps(whole, indent=2) + "\n"


def _models(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return a model and those of its fields."""
    found = [model]
    for field in model.model_fields.values():
        for one in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(one, type) and issubclass(one, BaseModel):
                found += _models(one)
    return found


def _remove_secrets(definition: Schema, model: type[BaseModel] | None) -> None:
    """Remove what must not be in a ConfigMap; names of files with secrets may."""
    for name, field in model.model_fields.items() if model else ():
        if not field.repr and name not in _PUBLIC and not name.endswith(("_file", "_files")):
            del definition["properties"][name]


def _plain(part: Any) -> Any:
    """Return a schema without documentation, and with the chart's names of definitions."""
    if isinstance(part, list):
        return [_plain(one) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return {"$ref": part["$ref"].replace("#/$defs/", f"#/$defs/{_PREFIX}")}
    # A setting may have the name of a keyword: only keywords are dropped.
    return {
        key: {name: _plain(one) for name, one in value.items()}
        if key in {"properties", "$defs"}
        else _plain(value)
        for key, value in part.items()
        if key not in _DROPPED
    }


if __name__ == "__main__":
    SCHEMA.write_text(schema())
