"""The confined worker: its steps, and what hostile files make of it."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from proxy.domain.errors import ConfigurationError
from proxy.domain.worker_protocol import (
    METADATA_PARTS,
    JobFailure,
    MetadataJob,
    MetadataRead,
    MetadataStep,
    Ping,
)
from proxy.metadata import worker as worker_module
from proxy.metadata.extraction import join_bulk
from proxy.metadata.worker import MetadataWorker
from proxy.runtime.deferred_json import parsed
from tests.metadata.files import gif, jpeg, ztxt_bomb
from tests.support.memory_files import memory_file

SECRET = "text of a stranger"


def run(
    content: bytes,
    step: MetadataStep,
    *attachments: bytes,
    name: str = "a.jpg",
    advanced: bool = False,
) -> tuple[Any, Any]:
    """Return the reply and the output of a step."""
    with (
        memory_file(content) as source,
        memory_file() as target,
        memory_file(b"".join(attachments)) as attached,
    ):
        given = (attached,) if attachments else ()
        job = MetadataJob(step, name, advanced)
        reply = MetadataWorker().run(job, source, target, *given)
        output = os.pread(target, 10**7, 0)
    if not output:
        return reply, None
    head, *bulk = output.split(b"\n")
    found = json.loads(head)
    if bulk:
        found["metadata"] = parsed(join_bulk(found["metadata"], bulk))
    return reply, found


def test_the_walk_reports_the_format() -> None:
    reply, _ = run(gif(), MetadataStep.WALK)
    assert reply == MetadataRead("gif", has_credentials=False)


@pytest.mark.parametrize(
    ("content", "kind"), [(b"only text", "unknown_format"), (ztxt_bomb(3), "metadata_too_large")]
)
def test_a_refused_file_is_a_failure_of_its_kind(content: bytes, kind: str) -> None:
    reply, _ = run(content, MetadataStep.WALK)
    assert isinstance(reply, JobFailure)
    assert reply.kind == kind


def describe(
    printed: bytes, credentials: bytes = b"", validation: bytes = b"", *, advanced: bool = False
) -> tuple[Any, Any]:
    parts = (printed, credentials, validation)
    header = METADATA_PARTS.pack(*map(len, parts))
    return run(jpeg(), MetadataStep.DESCRIBE, header, *parts, advanced=advanced)


def test_the_description_uses_all_parts_of_the_attachment() -> None:
    printed = b'[{"SourceFile": "x", "IFD0:Make": "Canon"}]'
    reply, found = describe(printed, b'{"state": "valid"}')
    assert reply.fallback is False
    assert found["metadata"]["groups"] == {"IFD0": {"Make": "Canon"}}
    assert found["metadata"]["c2pa"] == {"state": "valid"}
    assert found["advanced"] is None
    validation = b'[{"SourceFile": "x", "ExifTool:Warning": "a warning"}]'
    _, found = describe(printed, b'{"state": "valid"}', validation, advanced=True)
    assert found["advanced"]["c2pa"] == {"state": "valid"}
    assert [one["what"] for one in found["advanced"]["validation"]] == ["a warning"]
    assert found["metadata"]["warnings"] == []


@pytest.mark.parametrize("printed", [b"", b"no JSON", b"[{}]", b"\xff" * 100])
def test_without_a_usable_answer_the_fallback_reads_the_file(printed: bytes) -> None:
    reply, found = describe(printed)
    assert reply.fallback is True
    assert found["metadata"]["exif"]["make"] == "Canon"


def test_a_file_without_credentials_has_none() -> None:
    _, found = run(gif(), MetadataStep.CREDENTIALS)
    assert found is None


def test_an_unforeseen_error_is_reported_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_file: object) -> None:
        raise LookupError(SECRET)

    monkeypatch.setattr(worker_module, "walk", fail)
    reply, _ = run(gif(), MetadataStep.WALK)
    assert isinstance(reply, JobFailure)
    assert reply.kind == "unread"
    assert "in fail" in reply.traceback
    assert SECRET not in str(reply)


def test_another_kind_of_job_is_refused() -> None:
    with pytest.raises(TypeError):
        MetadataWorker().run(Ping(), -1, -1)


def test_a_trust_list_that_cannot_be_read_makes_the_worker_unfit() -> None:
    with pytest.raises(ConfigurationError, match="c2pa_trust_list"):
        MetadataWorker().prepare({"extra": {"c2pa_trust_list": "/no/list.pem"}})
