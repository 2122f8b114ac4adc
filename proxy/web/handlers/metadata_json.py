"""The JSON of the metadata routes, as OpenAPI describes it.

The values come from the confined workers as JSON, so these types only describe them. As
dataclasses they would lengthen the start by 13 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

Object = Mapping[str, Any]
TierName = Literal["free", "professional", "forensic", "enterprise"]
Part = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]
GeneratorName = Annotated[
    Literal[
        "midjourney",
        "comfyui",
        "stable_diffusion",
        "novelai",
        "invokeai",
        "fooocus",
        "dall-e",
        "firefly",
        "google",
        "microsoft",
        "ml_lib",
        "other",
        "unknown",
    ],
    Field(description="`unknown` does not mean that the image is not generated."),
]


class Density(TypedDict):
    """Pixels per unit; without a unit only the ratio is known."""

    x: float
    y: float
    unit: Literal["inch", "cm"] | None


class ExifFacts(TypedDict):
    """Facts of the photograph; null is unknown."""

    camera: str | None
    make: str | None
    model: str | None
    software: str | None
    orientation: int | None
    taken_at: Annotated[str | None, Field(description="ISO 8601, as exact as it is written.")]
    exposure: Annotated[float | None, Field(description="Seconds.")]
    aperture: Annotated[float | None, Field(description="F-number.")]
    iso: float | None
    focal_length: Annotated[float | None, Field(description="Millimetres.")]


class Position(TypedDict):
    """Where the photograph was taken, in degrees and metres."""

    latitude: float
    longitude: float
    altitude: float | None
    taken_at: str | None


class ContainerText(TypedDict):
    """A text of the container, exactly as it is written."""

    keyword: str
    where: Annotated[str, Field(description="`PNG tEXt`, `JPEG COM` and so on.")]
    language: str | None
    text: str


class GenerationEvidence(TypedDict):
    """A fact from which a generator is known."""

    kind: Annotated[
        Literal[
            "trusted_c2pa",
            "generator_block",
            "digital_source_type",
            "untrusted_c2pa",
            "tool_string",
            "file_name",
        ],
        Field(alias="class"),
    ]
    where: str
    key: str
    says: str


class Lora(TypedDict):
    """A LoRA that was applied."""

    name: str
    weight: float | None
    hash: str | None


class GenerationDetails(TypedDict):
    """How an image was generated; null is unknown."""

    source: GeneratorName
    generator: Annotated[str | None, Field(description="The generator in words.")]
    involvement: Literal["generated", "composite", "none_found"]
    prompt: str | None
    negativePrompt: str | None
    steps: int | None
    cfgScale: float | None
    sampler: str | None
    scheduler: str | None
    seed: Annotated[str | None, Field(description="Text: it may exceed 2^53.")]
    checkpoint: Annotated[str | None, Field(description="Without folder and extension.")]
    model: str | None
    vae: str | None
    clipSkip: int | None
    loras: Sequence[Lora]
    mjVersion: str | None
    mjAspectRatio: str | None
    mjChaos: float | None
    mjQuality: float | None
    mjStylize: float | None
    mjStyle: str | None
    mjRaw: bool | None
    mjWeirdness: float | None
    mjExperimental: float | None
    mjJobId: str | None
    mjStyleReferences: Sequence[str]
    mjStyleWeight: float | None
    mjImageWeight: float | None
    mjCharacterReference: str | None
    mjCharacterWeight: float | None
    mjOmniReference: str | None
    mjOmniWeight: float | None
    mjAuthor: str | None
    version: str | None
    fullParametersText: str | None
    rawParameters: Annotated[
        RawParameters, Field(description="Also everything that has no field of its own.")
    ]
    digital_source_type: str | None
    confidence: Annotated[
        Part | None, Field(description="Strength of the best evidence; not a probability.")
    ]
    evidence: Sequence[GenerationEvidence]


class RawParameters(TypedDict):
    """Parameters as the generator wrote them."""

    comfyNodeCount: int | None
    comfyWorkflowId: str | None
    workflow: Any


class CredentialAction(TypedDict):
    """What a manifest says was done."""

    action: str | None
    software_agent: str | None
    digital_source_type: str | None
    manifest: str


class ContentCredentials(TypedDict):
    """C2PA manifests. An untrusted issuer is what the file claims."""

    state: Literal["valid", "expired", "tampered", "remote", "unreadable"]
    trust: Literal["trusted", "untrusted"]
    issuer: str | None
    claim_generator: str | None
    generators: Sequence[str]
    actions: Sequence[CredentialAction]
    codes: Sequence[str]
    remote_url: Annotated[str | None, Field(description="It is never fetched.")]
    signed_at: str | None


class Withheld(TypedDict):
    """What the tier may not see, and the tier that may."""

    groups: Sequence[str]
    fields: Sequence[str]
    needs: TierName


class EngineVersions(TypedDict):
    """What has read the file."""

    name: Literal["exiftool", "pillow"]
    version: str
    walk: str
    c2pa: str | None


class FileMetadata(TypedDict):
    """All that a file says about itself; null is unknown, and `reasons` may say why."""

    schema: Annotated[int, Field(description="Version of this object.")]
    format: str
    mime_type: str
    extension_matches: Annotated[
        bool | None,
        Field(description="False: extension or declared type is another; null: no extension."),
    ]
    sha256: str
    width: Count | None
    height: Count | None
    orientation: int | None
    bit_depth: int | None
    channels: int | None
    color_space: str | None
    has_alpha: bool | None
    pages: int | None
    density: Density | None
    exif: ExifFacts
    gps: Position | None
    groups: Annotated[
        Mapping[str, Object], Field(description="Tags by group: `IFD0`, `GPS`, `XMP-dc`, …")
    ]
    text: Sequence[ContainerText]
    ai_generation: GenerationDetails
    c2pa: ContentCredentials | None
    warnings: Sequence[str]
    truncated: Annotated[Sequence[str], Field(description="Paths of values that were cut.")]
    withheld: Withheld | None
    reasons: Mapping[str, str]
    engine: EngineVersions


class Deduction(TypedDict):
    """A deduction from the confidence."""

    deduction: Part
    reason: str


class QualityMetrics(TypedDict):
    """How well the file was read, not whether it is authentic."""

    confidence_score: Part
    confidence_basis: Sequence[Deduction]
    extraction_completeness: Part | None
    processing_efficiency: Part
    format_support_level: Literal["comprehensive", "standard", "basic", "unsupported"]
    enhanced_extraction: Annotated[bool, Field(description="exiftool has read the file.")]
    streaming_enabled: bool
    recommended_actions: Sequence[str]


class ProcessingInsights(TypedDict):
    """How the file was read."""

    total_fields_extracted: Count
    processing_time_ms: Annotated[Milliseconds, Field(description="Without `queued_ms`.")]
    queued_ms: Milliseconds
    memory_usage_mb: Annotated[float | None, Field(description="Peak of the engine.")]
    streaming_enabled: bool
    fallback_extraction: bool
    engine_version: str
    cached: Annotated[bool, Field(description="An earlier extraction of the same content.")]


class Observation(TypedDict):
    """A fact for examiners; it proves nothing by itself."""

    what: str
    where: str
    means: str
    innocent_reasons: Sequence[str]


class FileHashes(TypedDict):
    """Hexadecimal hashes of the file."""

    md5: str
    sha1: str
    sha256: str


class TimelineEntry(TypedDict):
    """A date of the file."""

    when: str
    field: str
    value: Any


class ThumbnailFacts(TypedDict):
    """The embedded thumbnail, and how much it differs from the image."""

    present: bool
    distance: float | None


class JpegStructure(TypedDict):
    """Quantization tables, and the quality that they stand for."""

    tables: Sequence[Object]
    estimated_quality: int | None
    libjpeg_tables: bool | None
    progressive: bool | None


class StealthFacts(TypedDict):
    """Text that is hidden in the pixels."""

    present: bool | None
    text: str | None


class PrivacyFacts(TypedDict):
    """What the file reveals."""

    gps: Sequence[Object]
    serials: Sequence[Object]
    owner: Sequence[Object]
    software: Sequence[Object]


class AdvancedFacts(TypedDict):
    """Facts for examiners, without a verdict; null is unknown, and `reasons` says why."""

    hashes: FileHashes
    c2pa: ContentCredentials | None
    validation: Sequence[Observation]
    timeline: Sequence[TimelineEntry]
    consistency: Sequence[Observation]
    thumbnail: ThumbnailFacts
    jpeg: JpegStructure | None
    trailing_bytes: Count | None
    stealth: StealthFacts
    privacy: PrivacyFacts
    reasons: Mapping[str, str]


class ExtractAnswer(TypedDict):
    """The metadata of a file."""

    success: Literal[True]
    filename: str
    filesize: Annotated[Count, Field(description="Bytes.")]
    tier: TierName
    metadata: FileMetadata
    quality_metrics: QualityMetrics
    processing_insights: ProcessingInsights
    request_id: str


class AdvancedAnswer(ExtractAnswer):
    """The metadata of a file, and facts for examiners."""

    advanced: AdvancedFacts


class ImagesMvpAnswer(ExtractAnswer):
    """The metadata of a file, with the basic fields at the top level too."""

    format: str
    mime_type: str
    width: Count | None
    height: Count | None
    orientation: int | None
    color_space: str | None
    exif: ExifFacts
    gps: Position | None
    ai_generation: GenerationDetails


class BatchFailure(TypedDict):
    """Why a file of a batch was not extracted."""

    filename: str
    success: Literal[False]
    error: str
    code: str


class BatchAnswer(TypedDict):
    """The metadata of several files, in their order."""

    success: Literal[True]
    tier: TierName
    total: Count
    succeeded: Count
    failed: Count
    results: Sequence[ExtractAnswer | BatchFailure]


class QuickAnswer(TypedDict):
    """Whether an image is generated, and its metadata."""

    success: Literal[True]
    filename: str
    filesize: Count
    is_ai_generated: Annotated[bool, Field(description="False: no trace of a generator was found.")]
    ai_generator_type: GeneratorName
    prompt: str | None
    complete_metadata: FileMetadata


class AnalyzeAnswer(QuickAnswer):
    """How an image is generated, and its metadata; null is unknown."""

    width: Count | None
    height: Count | None
    negative_prompt: str | None
    steps: int | None
    cfg_scale: float | None
    sampler: str | None
    scheduler: str | None
    seed: str | None
    checkpoint_model_name: str | None
    mj_version: str | None
    mj_aspect_ratio: str | None
    mj_chaos: float | None
    mj_quality: float | None
    mj_stylize: float | None
    mj_style: str | None
    mj_raw: bool | None
    mj_weirdness: float | None
    mj_experimental: float | None
    mj_job_id: str | None
    comfy_node_count: int | None
    comfy_workflow_id: str | None
    sd_vae: str | None
    sd_clip_skip: int | None


class EngineHealth(TypedDict):
    """The engine that reads tags."""

    name: Literal["exiftool", "pillow"]
    version: str | None
    available: bool


class ExtractHealth(TypedDict):
    """The result of an extraction of a built-in image."""

    status: Literal["healthy", "degraded", "unhealthy"]
    engine: EngineHealth
    fallback: Annotated[bool, Field(description="The fallback has read the image.")]
    c2pa: Annotated[bool, Field(description="Content Credentials are read.")]
    checks: Annotated[
        Mapping[str, str],
        Field(description="`ok`, `starting`, or what is wrong, by what was checked."),
    ]
    duration_ms: Milliseconds
    timestamp: str


class ServiceStates(TypedDict):
    """`ok`, or what is wrong, by service."""

    database: str
    storage: str
    workers: str
    extraction: Annotated[str, Field(description="`ok`, `idle` until a file came, or `disabled`.")]


class ApiHealth(TypedDict):
    """The state of the server and its services."""

    status: Literal["healthy", "degraded", "unhealthy"]
    version: str
    services: ServiceStates


_MIDJOURNEY = (
    *("Version", "AspectRatio", "Chaos", "Quality", "Stylize", "Style", "Raw"),
    *("Weirdness", "Experimental", "JobId"),
)


def analysis_of(metadata: Object) -> dict[str, Any]:
    """Return the members of `AnalyzeAnswer` that a metadata object has under other names."""
    generation = metadata["ai_generation"]
    raw = generation["rawParameters"]
    return {
        "width": metadata["width"],
        "height": metadata["height"],
        "negative_prompt": generation["negativePrompt"],
        "steps": generation["steps"],
        "cfg_scale": generation["cfgScale"],
        "sampler": generation["sampler"],
        "scheduler": generation["scheduler"],
        "seed": generation["seed"],
        "checkpoint_model_name": generation["checkpoint"],
        **{f"mj_{_snake(name)}": generation[f"mj{name}"] for name in _MIDJOURNEY},
        "comfy_node_count": raw["comfyNodeCount"],
        "comfy_workflow_id": raw["comfyWorkflowId"],
        "sd_vae": generation["vae"],
        "sd_clip_skip": generation["clipSkip"],
    }


def _snake(name: str) -> str:
    return "".join(f"_{one.lower()}" if one.isupper() else one for one in name).lstrip("_")
