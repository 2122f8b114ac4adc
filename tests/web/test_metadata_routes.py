from __future__ import annotations

from typing import Any

from proxy.settings import Settings
from proxy.web.metadata_input import MAX_BATCH
from proxy.web.metadata_routes import metadata_operations
from proxy.web.routes import describe


def _paths(**settings: Any) -> dict[str, Any]:
    paths: dict[str, Any] = describe(Settings.model_validate(settings))["paths"]
    return paths


def test_disabled_metadata_has_no_routes() -> None:
    names = {one.route.split()[1] for one in metadata_operations()}
    assert names <= set(_paths())
    assert names.isdisjoint(_paths(metadata={"enabled": False}))


def test_a_batch_is_limited_and_single_files_are_no_arrays() -> None:
    paths = _paths()

    def form(path: str) -> dict[str, Any]:
        body: dict[str, Any] = paths[path]["post"]["requestBody"]["content"]
        properties: dict[str, Any] = body["multipart/form-data"]["schema"]["properties"]
        return properties

    assert form("/api/extract/batch")["files"]["maxItems"] == MAX_BATCH
    assert "sessionId" not in form("/api/extract/batch"), "a session belongs to one file"
    assert "items" not in form("/api/extract")["file"]
    assert "sessionId" in form("/api/extract")


def test_only_analyses_may_be_open_to_requests_without_a_token() -> None:
    openable = {
        path
        for path, methods in _paths().items()
        for one in methods.values()
        if {} in one.get("security", [])
    }
    assert openable >= {"/api/analyze", "/api/standalone-metadata/analyze"}
    assert openable.isdisjoint({"/api/extract", "/api/extract/batch", "/api/extract/jobs"})
