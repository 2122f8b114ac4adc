"""ml_lib: JSON in the PNG chunk ``ml_lib_metadata``, or in EXIF UserComment."""

from __future__ import annotations

from proxy.metadata.generation.finding import (
    EvidenceClass,
    ParserResult,
    Source,
    Sources,
    as_float,
    as_int,
    as_text,
    load_object,
    rest_of,
)

_KEYS = ("generation_id", "base_model_id")
"""Of a block in UserComment, which is not named."""
_USED = (
    *("prompt", "negative_prompt", "seed", "steps", "cfg_scale", "sampler", "scheduler"),
    *("clip_skip", "base_model_id", "vae_model", "loras_used", "pipeline_version"),
)


def parse(sources: Sources) -> ParserResult | None:
    """Read the block of ml_lib. It also writes a chunk ``prompt``, which is not a graph."""
    for entry in (*sources.named("ml_lib_metadata"), *sources.exif("UserComment")):
        block = load_object(entry.text)
        if block is None or (
            entry.keyword == "UserComment" and not all(key in block for key in _KEYS)
        ):
            continue
        found = ParserResult(Source.ML_LIB, generator="ml_lib", raw=rest_of(block, _USED))
        found.cite(entry, EvidenceClass.GENERATOR_BLOCK, "JSON block of ml_lib")
        found.set("prompt", as_text(block.get("prompt")))
        found.set("negativePrompt", as_text(block.get("negative_prompt")))
        found.set("seed", as_text(block.get("seed")))
        found.set("steps", as_int(block.get("steps")))
        found.set("cfgScale", as_float(block.get("cfg_scale")))
        found.set("sampler", as_text(block.get("sampler")))
        found.set("scheduler", as_text(block.get("scheduler")))
        found.set("clipSkip", as_int(block.get("clip_skip")))
        found.set("vae", as_text(block.get("vae_model")))
        found.set("version", as_text(block.get("pipeline_version")))
        found.set("fullParametersText", entry.text)
        if block.get("base_model_id") != "unknown":
            found.set_model(block.get("base_model_id"))
        loras = block.get("loras_used")
        for lora in loras if isinstance(loras, list) else []:
            if isinstance(lora, dict):
                found.add_lora(lora.get("name"), lora.get("weight"), lora.get("hash"))
        return found
    return None
