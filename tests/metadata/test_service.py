"""The extraction as a whole, with real exiftool, real files and really killed processes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from proxy.domain.errors import (
    BadEngineOutput,
    ExtractionFailed,
    ExtractionTimeout,
    MetadataTooLarge,
    Overloaded,
    QueueFull,
    UnknownImageFormat,
)
from proxy.domain.worker_protocol import MetadataJob, MetadataStep
from proxy.metadata.exiftool import ExifToolJob
from proxy.metadata.extraction import IDLE_STATISTICS
from proxy.metadata.service import MetadataService
from proxy.rendering.pool.pool import WorkerPool
from tests.metadata.files import (
    MAKE,
    MODEL,
    gif,
    jpeg,
    png,
    require_exiftool,
    text_chunk,
    ztxt_bomb,
)
from tests.metadata.opened import extract, service_of
from tests.support.golden import golden
from tests.support.waiting import eventually

PROMPT = "a secret prompt of a stranger"
FIELDS = {
    *("schema", "format", "mime_type", "extension_matches", "sha256", "width", "height"),
    *("orientation", "bit_depth", "channels", "color_space", "has_alpha", "pages", "density"),
    *("exif", "gps", "groups", "text", "c2pa", "warnings", "truncated", "withheld", "reasons"),
    *("engine", "ai_generation"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MetadataService]:
    """For tests that neither kill nor count."""
    require_exiftool()
    async with service_of(tmp_path_factory.mktemp("shared")) as service:
        yield service


module = pytest.mark.asyncio(loop_scope="module")


def left(service: MetadataService) -> list[Path]:
    return [path for path in service.folder.rglob("*") if path.is_file()]


@module
async def test_every_field_is_present_and_known_values_are_right(shared: MetadataService) -> None:
    found = await extract(shared, jpeg(), "photo.jpg")
    metadata: Any = found.metadata
    assert set(metadata) >= FIELDS
    assert (metadata["format"], metadata["mime_type"]) == ("jpeg", "image/jpeg")
    assert (metadata["width"], metadata["height"], metadata["orientation"]) == (40, 30, 6)
    assert metadata["exif"] == {
        "camera": MODEL,
        "make": MAKE,
        "model": MODEL,
        "software": None,
        "orientation": 6,
        "taken_at": "2024-05-01T10:11:12+02:00",
        "exposure": 0.005,
        "aperture": 2.8,
        "iso": 400,
        "focal_length": 35,
    }
    assert metadata["gps"]["latitude"] == pytest.approx(-33.858333, abs=1e-6)
    assert metadata["gps"]["longitude"] == pytest.approx(151.2, abs=1e-6)
    assert metadata["groups"]["IFD0"]["Make"] == MAKE
    assert not {"System", "ExifTool"} & set(metadata["groups"])
    assert metadata["engine"]["name"] == "exiftool"
    assert found.quality_metrics["confidence_score"] == 1
    assert found.quality_metrics["extraction_completeness"] == 1
    assert found.quality_metrics["enhanced_extraction"] is True
    assert found.quality_metrics["recommended_actions"] == []
    insights = found.processing_insights
    assert insights["fallback_extraction"] is False
    assert insights["total_fields_extracted"] > 10
    assert insights["queued_ms"] >= 0
    assert left(shared) == []


EXIF = {
    *("camera", "make", "model", "software", "orientation", "taken_at", "exposure", "aperture"),
    *("iso", "focal_length"),
}
QUALITY = {
    *("confidence_score", "confidence_basis", "extraction_completeness", "processing_efficiency"),
    *("format_support_level", "enhanced_extraction", "streaming_enabled", "recommended_actions"),
}
INSIGHTS = {
    *("total_fields_extracted", "processing_time_ms", "queued_ms", "memory_usage_mb"),
    *("streaming_enabled", "fallback_extraction", "engine_version", "cached"),
}
CREDENTIALS = {
    *("state", "trust", "issuer", "claim_generator", "generators", "actions", "codes"),
    *("remote_url", "signed_at", "active_manifest", "manifests"),
}


@module
@pytest.mark.parametrize(
    "name",
    [
        "metadata-extractor/Nikon E5000.jpg",
        "metadata-extractor/Issue 62.png",
        "metadata-extractor/Issue 473 (Java).webp",
        "metadata-extractor/Issue 649.avif",
        "metadata-extractor/NegativeArraySizeException.HeifReader.processBoxes.heif",
        "exiftool/images/FujiFilm.raf",
        "exiftool/images/SigmaDP2.x3f",
        "exiftool/images/Photoshop.psd",
        "exiftool/images/GeoTiff.tif",
        "c2pa/example-assets/ChatGPT_Image.png",
        "c2pa/public-testfiles/adobe-20220124-E-dat-CA.jpg",
        "sd-parsers/tests__resources__bad_images__empty_image.jpg",
    ],
)
async def test_every_field_is_known_or_has_a_reason(shared: MetadataService, name: str) -> None:
    path = golden(name)
    found = await extract(shared, path.read_bytes(), path.stem)
    metadata: Any = found.metadata
    assert set(metadata) >= FIELDS
    assert set(metadata["exif"]) == EXIF
    assert set(metadata["engine"]) == {"name", "version", "walk", "c2pa"}
    assert set(found.quality_metrics) == QUALITY
    assert set(found.processing_insights) == INSIGHTS
    assert len(found.quality_metrics["recommended_actions"]) == len(
        found.quality_metrics["confidence_basis"]
    )
    if metadata["c2pa"] is not None:
        assert set(metadata["c2pa"]) == CREDENTIALS
    if metadata["gps"] is not None:
        assert set(metadata["gps"]) == {"latitude", "longitude", "altitude", "taken_at"}
    unknown = {key for key, value in metadata.items() if value is None} - {"withheld"}
    unknown |= {f"exif.{key}" for key, value in metadata["exif"].items() if value is None}
    unknown |= {key for key, value in found.quality_metrics.items() if value is None}
    assert unknown <= set(metadata["reasons"])
    assert all(metadata["reasons"].values())


@module
async def test_text_is_returned_as_it_is_written(shared: MetadataService) -> None:
    values = ("True", "007", "7.50", "1e400", "18446744073709551615", "-0", "nan")
    chunks = [text_chunk(f"Key{index}", value) for index, value in enumerate(values)]
    found = await extract(shared, png(*chunks), "a.png")
    assert [one["text"] for one in found.metadata["text"]] == list(values)
    tags = found.metadata["groups"]["PNG"]
    assert [str(tags[f"Key{index}"]) for index in range(len(values))] == list(values)


@module
@pytest.mark.parametrize(
    ("comment", "text"),
    [
        (b"UNICODE\0" + "größer".encode("utf-16-be"), "größer"),
        (b"UNICODE\0" + "größer".encode("utf-16-le"), "größer"),
        (b"JIS\0\0\0\0\0" + "日本".encode("iso2022_jp"), "日本"),
        (b"ASCII\0\0\0plain", "plain"),
    ],
)
async def test_comments_in_any_encoding_are_read_in_the_sandbox(
    shared: MetadataService, comment: bytes, text: str
) -> None:
    found = await extract(shared, jpeg(user_comment=comment))
    assert found.processing_insights["fallback_extraction"] is False
    assert text in str(found.metadata["groups"]["ExifIFD"]["UserComment"])


@module
async def test_equal_text_keys_are_both_kept(shared: MetadataService) -> None:
    content = png(text_chunk("Comment", "one"), text_chunk("Comment", "two"))
    found = await extract(shared, content, "a.png")
    assert [one["text"] for one in found.metadata["text"]] == ["one", "two"]
    assert {"one", "two"} <= set(map(str, found.metadata["groups"]["PNG"].values()))


@module
@pytest.mark.parametrize("name", ["x\n-ver", "-config", "../../etc/passwd", "\ud800.jpg", "", "."])
async def test_a_hostile_file_name_is_harmless(shared: MetadataService, name: str) -> None:
    found = await extract(shared, jpeg(), name)
    assert found.metadata["exif"]["make"] == MAKE
    assert found.processing_insights["fallback_extraction"] is False


@module
async def test_a_wrong_extension_costs_confidence(shared: MetadataService) -> None:
    found = await extract(shared, jpeg(), "photo.png")
    assert found.metadata["extension_matches"] is False
    assert found.quality_metrics["confidence_score"] == 0.9


@module
async def test_a_text_is_no_image(shared: MetadataService) -> None:
    with pytest.raises(UnknownImageFormat, match="Enhanced format support includes"):
        await extract(shared, b"only text", "text.jpg")
    assert left(shared) == []


@module
async def test_a_bomb_of_text_is_refused_before_exiftool_reads_it(shared: MetadataService) -> None:
    with pytest.raises(MetadataTooLarge):
        await extract(shared, ztxt_bomb(), "bomb.png")
    assert left(shared) == []


@module
async def test_a_truncated_jpeg_is_read_with_warnings(shared: MetadataService) -> None:
    content = jpeg(size=(400, 300))
    found = await extract(shared, content[: len(content) * 3 // 4], advanced=True)
    assert found.metadata["exif"]["make"] == MAKE
    assert found.metadata["warnings"]
    assert found.quality_metrics["confidence_score"] < 1


ADVANCED = {
    *("hashes", "c2pa", "validation", "timeline", "consistency", "thumbnail", "jpeg"),
    *("trailing_bytes", "stealth", "privacy", "reasons"),
}


@module
async def test_the_facts_for_examiners_are_complete(shared: MetadataService) -> None:
    content = golden("metadata-extractor/Sony Cybershot (3).jpg").read_bytes() + b"PK\x03\x04"
    found = (await extract(shared, content, advanced=True)).advanced
    assert found is not None
    assert set(found) == ADVANCED
    assert found["hashes"] == {
        "md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
        "sha1": hashlib.sha1(content, usedforsecurity=False).hexdigest(),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert found["timeline"][0] == {
        "when": "2001-11-27T18:33:44",
        "field": "IFD0:ModifyDate",
        "value": "2001:11:27 18:33:44",
    }
    assert found["thumbnail"]["present"] is True
    assert found["thumbnail"]["distance"] > 0.4, "the image was cropped"
    assert (found["jpeg"]["estimated_quality"], found["jpeg"]["progressive"]) == (94, False)
    assert [len(one["values"]) for one in found["jpeg"]["tables"]] == [64, 64]
    assert found["trailing_bytes"] == 4
    assert {one["where"] for one in found["consistency"]} == {
        *("ExifIFD:ExifImageWidth, ExifIFD:ExifImageHeight", "IFD1"),
        f"from byte {len(content) - 4:,} on",
    }
    assert (await extract(shared, content)).advanced is None


@module
async def test_serials_owners_and_positions_of_a_camera_are_listed(shared: MetadataService) -> None:
    content = golden("exiftool/images/Canon.jpg").read_bytes()
    found = (await extract(shared, content, advanced=True)).advanced
    assert found is not None
    assert {one["where"] for one in found["privacy"]["serials"]} == {"Canon:SerialNumber"}
    assert {one["where"] for one in found["privacy"]["owner"]} == {"Canon:OwnerName"}
    content = golden("exiftool/images/GPS.jpg").read_bytes()
    found = (await extract(shared, content, advanced=True)).advanced
    assert found is not None
    assert {"GPS:GPSLatitude", "GPS:GPSLongitude"} <= {
        one["where"] for one in found["privacy"]["gps"]
    }


@module
async def test_the_validation_does_not_change_how_well_a_file_was_read(
    shared: MetadataService,
) -> None:
    content = golden("metadata-extractor/Canon IXUS 400.jpg").read_bytes()
    plain = await extract(shared, content)
    found = await extract(shared, content, advanced=True)
    assert found.advanced is not None
    assert len(found.advanced["validation"]) > 20
    assert found.metadata == plain.metadata
    assert found.quality_metrics["confidence_score"] == plain.quality_metrics["confidence_score"]


@module
async def test_hidden_text_is_returned(shared: MetadataService) -> None:
    name = "tests__resources__parsers__AUTOMATIC1111__automatic1111_stealth.png"
    content = golden(f"sd-parsers/{name}").read_bytes()
    found = (await extract(shared, content, "a.png", advanced=True)).advanced
    assert found is not None
    assert found["stealth"]["present"] is True
    assert "Steps:" in found["stealth"]["text"]
    plain = (await extract(shared, png(), "a.png", advanced=True)).advanced
    assert plain is not None
    assert plain["stealth"] == {"present": False, "text": None}


@module
async def test_progress_is_reported_in_order(shared: MetadataService) -> None:
    seen: list[tuple[int, str]] = []
    with shared.new_file(max_bytes=10**6) as file:
        await file.write(jpeg())
        await file.finish()
        await shared.extract(file, progress=lambda *stage: seen.append(stage))
    assert seen == [(30, "walked"), (50, "engine"), (80, "credentials"), (100, "complete")]


@module
async def test_hidden_text_names_the_generator(shared: MetadataService) -> None:
    name = "tests__resources__parsers__AUTOMATIC1111__automatic1111_stealth.png"
    content = golden(f"sd-parsers/{name}").read_bytes()
    found = (await extract(shared, content, "a.png")).metadata["ai_generation"]
    assert found["source"] == "stable_diffusion"
    assert found["prompt"]


@module
async def test_the_log_has_no_text_of_the_file(shared: MetadataService) -> None:
    with capture_logs() as entries:
        await extract(shared, png(text_chunk("parameters", PROMPT)), "holiday at home.png")
    assert {one["event"] for one in entries} == {"metadata_extracted"}
    assert not {"secret", "holiday", "home"} & set(str(entries).split())
    assert PROMPT not in str(entries)


@module
async def test_credentials_are_read_through_their_ingredients(shared: MetadataService) -> None:
    content = golden("c2pa/example-assets/ChatGPT_Image.png").read_bytes()
    found = (await extract(shared, content, "a.png")).metadata["c2pa"]
    assert (found["state"], found["trust"]) == ("expired", "untrusted")
    assert "GPT-4o" in {one["software_agent"] for one in found["actions"]}
    extraction = await extract(shared, content, "a.png")
    assert extraction.metadata["ai_generation"]["source"] == "dall-e"
    assert extraction.metadata["ai_generation"]["confidence"] == 0.6


@module
async def test_a_remote_manifest_is_named_and_not_fetched(shared: MetadataService) -> None:
    content = golden("c2pa/example-assets/crater-lake-cr.jpg").read_bytes()
    found = (await extract(shared, content)).metadata["c2pa"]
    assert found["state"] == "remote"
    assert found["remote_url"].startswith("https://cai-manifests.adobe.com/")


@module
async def test_many_simultaneous_files_are_all_answered(shared: MetadataService) -> None:
    found = await asyncio.gather(*(extract(shared, gif(), "a.gif") for _ in range(30)))
    assert {one.metadata["width"] for one in found} == {3}
    assert left(shared) == []


async def test_without_exiftool_the_fallback_keeps_the_shape(tmp_path: Path) -> None:
    async with service_of(tmp_path, engine="pillow") as service:
        found = await extract(service, jpeg(), "photo.jpg")
        assert set(found.metadata) >= FIELDS
        assert found.metadata["exif"]["camera"] == MODEL
        assert found.metadata["exif"]["taken_at"] == "2024-05-01T10:11:12+02:00"
        assert found.metadata["gps"]["latitude"] == pytest.approx(-33.858333, abs=1e-6)
        assert found.metadata["engine"]["name"] == "pillow"
        assert found.processing_insights["fallback_extraction"] is True
        assert found.processing_insights["memory_usage_mb"] is None
        assert "exiftool" in found.metadata["reasons"]["memory_usage_mb"]
        assert found.quality_metrics["enhanced_extraction"] is False
        assert found.quality_metrics["confidence_score"] == 0.7
        assert "pillow" in found.metadata["reasons"]["fallback_extraction"]
        examined = (await extract(service, jpeg(), "photo.jpg", advanced=True)).advanced
        assert examined is not None
        assert set(examined) == ADVANCED
        assert examined["validation"] == []
        assert "validation" in examined["reasons"]
        assert service.statistics()["fallbacks_missing"] == 2


async def test_an_engine_that_is_killed_in_the_middle_of_a_file_is_replaced(tmp_path: Path) -> None:
    require_exiftool()
    async with service_of(tmp_path) as service:
        (pid,) = service.engine_pids
        os.kill(pid, signal.SIGSTOP)
        running = asyncio.create_task(extract(service, jpeg(), "photo.jpg"))
        await eventually(lambda: service.statistics()["engines_idle"] == 0, timeout_s=60)
        os.kill(pid, signal.SIGKILL)
        found = await running
        assert found.processing_insights["fallback_extraction"] is True
        assert found.metadata["exif"]["make"] == MAKE
        await eventually(lambda: service.statistics()["engines_idle"] == 1, timeout_s=60)
        again = await extract(service, jpeg(), "photo.jpg")
        assert again.processing_insights["fallback_extraction"] is False
        figures = service.statistics()
        assert (figures["fallbacks_died"], figures["restarts_crash"]) == (1, 1)
        assert left(service) == []


@pytest.mark.slow
async def test_an_engine_that_is_late_is_replaced_and_the_fallback_reads_the_file(
    tmp_path: Path,
) -> None:
    require_exiftool()
    async with service_of(tmp_path, engine_timeout_s=5) as service:
        os.kill(service.engine_pids[0], signal.SIGSTOP)
        found = await extract(service, jpeg())
        assert found.processing_insights["fallback_extraction"] is True
        assert service.statistics()["fallbacks_timeout"] == 1


async def test_an_engine_that_gets_too_little_cpu_time_is_replaced_by_the_fallback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_exiftool()

    async def starve(pool: WorkerPool, job: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(job, ExifToolJob):
            raise Overloaded("too little CPU time")
        return await run(pool, job, *arguments, **options)

    run = WorkerPool.run
    monkeypatch.setattr(WorkerPool, "run", starve)
    async with service_of(tmp_path) as service:
        found = await extract(service, jpeg())
        assert found.processing_insights["fallback_extraction"] is True
        assert service.statistics()["fallbacks_timeout"] == 1


async def test_a_file_that_no_engine_can_read_fails_and_is_remembered(tmp_path: Path) -> None:
    async with service_of(tmp_path, engine="pillow") as service:
        # A signature, and nothing else.
        for _ in range(2):
            with pytest.raises(ExtractionFailed, match=r"without exiftool: metadata\.engine is"):
                await extract(service, b"GIF89a")
        assert service.statistics()["extractions_failed"] == 1
        assert left(service) == []


@pytest.mark.slow
async def test_an_extraction_over_its_time_limit_ends(tmp_path: Path) -> None:
    require_exiftool()
    async with service_of(tmp_path, timeout_s=3) as service:
        os.kill(service.engine_pids[0], signal.SIGSTOP)
        with pytest.raises(ExtractionTimeout):
            await extract(service, jpeg())
        assert left(service) == []
        assert service.statistics()["extractions_timeout"] == 1


async def test_a_full_queue_rejects_further_files(tmp_path: Path) -> None:
    require_exiftool()
    async with service_of(tmp_path, queue=1) as service:
        os.kill(service.engine_pids[0], signal.SIGSTOP)
        waiting = [asyncio.create_task(extract(service, gif(), "a.gif")) for _ in range(2)]
        await eventually(lambda: service.statistics()["inside"] == 2)
        with pytest.raises(QueueFull):
            await extract(service, gif(), "a.gif")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert left(service) == []


async def test_statistics_have_every_label(tmp_path: Path) -> None:
    async with service_of(tmp_path, engine="pillow") as service:
        figures = service.statistics()
    assert set(figures) == set(IDLE_STATISTICS)
    assert figures["engines_expected"] == 0
    assert figures["workers_up"] == 1


async def test_the_duration_of_each_stage_is_recorded(tmp_path: Path) -> None:
    recorded: dict[str, float] = {}
    shares: list[float] = []

    class Telemetry:
        def stage(self, stage: str, seconds: float) -> None:
            recorded[stage] = seconds

        def completeness(self, share: float) -> None:
            shares.append(share)

    async with service_of(tmp_path, engine="pillow", telemetry=Telemetry()) as service:
        found = await extract(service, jpeg())
    assert list(recorded) == ["queue", "walk", "engine", "describe"]
    assert min(recorded.values()) >= 0
    assert shares == [found.quality_metrics["extraction_completeness"]]


@pytest.mark.parametrize("printed", ["garbage", "refused"])
async def test_output_that_cannot_be_read_has_a_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str
) -> None:
    run_step = MetadataService._run_step

    async def step(
        self: MetadataService, file: Any, job: MetadataJob, attachment: int | None = None
    ) -> tuple[Any, bytes]:
        read, output = await run_step(self, file, job, attachment)
        if job.step is not MetadataStep.DESCRIBE:
            return read, output
        if printed == "refused":
            raise ExtractionFailed("No engine could read the file.")
        return read, b"not JSON"

    async def too_long(_self: MetadataService, _file: Any, _options: Any, run: Any) -> None:
        run.fallback_reason = "output"

    monkeypatch.setattr(MetadataService, "_run_step", step)
    monkeypatch.setattr(MetadataService, "_run_engine", too_long)
    async with service_of(tmp_path, engine="pillow") as service:
        with pytest.raises(BadEngineOutput) as error:
            await extract(service, jpeg())
        assert (error.value.status, error.value.code) == (500, "BAD_ENGINE_OUTPUT")
        assert left(service) == []
