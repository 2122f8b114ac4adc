"""The JSON of the metadata routes: all names of the requirements, and their values."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.metadata.generation.detect import FIELDS
from proxy.settings import Settings
from proxy.web.handlers.metadata_json import analysis_of
from proxy.web.routes import describe

NAMES = {
    "AnalyzeAnswer": (
        "success filename filesize width height is_ai_generated ai_generator_type prompt"
        " negative_prompt steps cfg_scale sampler scheduler seed checkpoint_model_name mj_version"
        " mj_aspect_ratio mj_chaos mj_quality mj_stylize mj_job_id mj_experimental mj_weirdness"
        " mj_raw comfy_node_count comfy_workflow_id sd_vae sd_clip_skip complete_metadata"
    ),
    "QuickAnswer": (
        "success filename filesize is_ai_generated ai_generator_type prompt complete_metadata"
    ),
    "ExtractAnswer": (
        "success filename filesize tier metadata quality_metrics processing_insights request_id"
    ),
    "BatchAnswer": "success tier total succeeded failed results",
    "BatchFailure": "filename success error code",
    "AdvancedFacts": (
        "hashes c2pa validation timeline consistency thumbnail jpeg trailing_bytes stealth privacy"
    ),
    "FileHashes": "md5 sha1 sha256",
    "TimelineEntry": "when field value",
    "ThumbnailFacts": "present distance",
    "JpegStructure": "tables estimated_quality progressive",
    "PrivacyFacts": "gps serials owner software",
    "Observation": "what where means innocent_reasons",
    "ExtractHealth": "status engine fallback c2pa checks duration_ms timestamp",
    "EngineHealth": "name version available",
    "ApiHealth": "status version services",
    "ServiceStates": "database storage workers extraction",
    "FileMetadata": (
        "schema format mime_type extension_matches sha256 width height orientation bit_depth"
        " channels color_space has_alpha pages density exif gps groups text ai_generation c2pa"
        " warnings truncated withheld reasons engine"
    ),
    "ExifFacts": (
        "camera make model software orientation taken_at exposure aperture iso focal_length"
    ),
    "Position": "latitude longitude altitude taken_at",
    "ContainerText": "keyword where language text",
    "Withheld": "groups fields needs",
    "EngineVersions": "name version walk c2pa",
    "QualityMetrics": (
        "confidence_score confidence_basis extraction_completeness processing_efficiency"
        " format_support_level enhanced_extraction streaming_enabled recommended_actions"
    ),
    "ProcessingInsights": (
        "total_fields_extracted processing_time_ms queued_ms memory_usage_mb streaming_enabled"
        " fallback_extraction engine_version"
    ),
    "ContentCredentials": (
        "state trust issuer claim_generator generators actions codes remote_url signed_at"
    ),
    "CredentialAction": "action software_agent digital_source_type manifest",
    "GenerationDetails": (
        "source prompt negativePrompt steps cfgScale sampler scheduler seed checkpoint model vae"
        " clipSkip loras mjVersion mjAspectRatio mjChaos mjQuality mjStylize mjStyle mjRaw"
        " mjWeirdness mjExperimental mjJobId mjStyleReferences mjStyleWeight mjImageWeight"
        " mjCharacterReference mjCharacterWeight mjOmniReference mjOmniWeight mjAuthor version"
        " fullParametersText rawParameters generator involvement digital_source_type confidence"
        " evidence"
    ),
    "RawParameters": "comfyNodeCount comfyWorkflowId workflow",
    "Lora": "name weight hash",
    "GenerationEvidence": "class where key says",
    "Problem": "title status detail error code needs",
}


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    found: dict[str, Any] = describe(Settings())["components"]["schemas"]
    return found


@pytest.mark.parametrize("model", NAMES)
def test_every_name_of_the_requirements_is_described(schemas: dict[str, Any], model: str) -> None:
    names = set(NAMES[model].split())
    assert names <= set(schemas[model]["properties"])
    if model != "Problem":
        assert names <= set(schemas[model]["required"]), "it is always present"


def test_the_description_of_a_generation_has_the_fields_of_the_parsers(
    schemas: dict[str, Any],
) -> None:
    assert set(FIELDS) <= set(schemas["GenerationDetails"]["properties"])


def test_an_analysis_has_the_values_under_their_other_names() -> None:
    generation: dict[str, Any] = {name: f"the {name}" for name in FIELDS}
    generation["rawParameters"] = {"comfyNodeCount": 7, "comfyWorkflowId": "w"}
    found = analysis_of({"width": 3, "height": 2, "ai_generation": generation})
    assert (found["width"], found["height"]) == (3, 2)
    assert found["negative_prompt"] == "the negativePrompt"
    assert found["checkpoint_model_name"] == "the checkpoint"
    assert found["mj_aspect_ratio"] == "the mjAspectRatio"
    assert found["mj_job_id"] == "the mjJobId"
    assert (found["sd_vae"], found["sd_clip_skip"]) == ("the vae", "the clipSkip")
    assert (found["comfy_node_count"], found["comfy_workflow_id"]) == (7, "w")
