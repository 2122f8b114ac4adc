"""Stable Diffusion: infotext, and the JSON of SwarmUI, Draw Things, Easy Diffusion and others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.metadata.container.result import TextEntry
from proxy.metadata.generation import infotext
from proxy.metadata.generation.finding import (
    EvidenceClass,
    ParserResult,
    Source,
    Sources,
    as_float,
    as_int,
    as_text,
    load_json,
    load_object,
    loras_of,
    model_name,
    plain,
    rest_of,
)

_NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "positive_prompt", "positive prompt", "positiveprompt", "c"),
    "negativePrompt": (
        *("negative_prompt", "negativeprompt", "negative prompt", "promptneg", "uc"),
    ),
    "seed": ("seed",),
    "steps": ("steps", "num_inference_steps", "number of inference steps"),
    "cfgScale": ("cfg_scale", "cfgscale", "guidance_scale", "guidance scale", "cfg", "scale"),
    "sampler": ("sampler", "sampler_name", "samplername"),
    "scheduler": ("scheduler", "scheduler_name"),
    "vae": ("vae", "use_vae_model", "vae model", "vae_model"),
    "clipSkip": ("clip_skip", "clipskip", "clip skip"),
    "model": (
        *("model", "use_stable_diffusion_model", "stable diffusion model", "model_name"),
        *("checkpoint", "modelname", "basemodel"),
    ),
    "version": ("version", "swarm_version", "app_version"),
}
"""Keys of JSON blocks and of single texts, in lower case, by our field."""
_NUMBERS = {"steps": as_int, "cfgScale": as_float, "clipSkip": as_int}
_USED = frozenset(name for names in _NAMES.values() for name in names)
_SETTINGS = frozenset(
    {
        *("steps", "sampler", "schedule type", "scheduler", "cfg scale", "seed", "model", "vae"),
        *("clip skip", "version"),
    }
)
_BY_KEY = (("app", "SD.Next"), ("parser", "SD.Next"), ("seed mode", "Draw Things"))
_BY_VERSION = (
    (r"f\d", "Stable Diffusion WebUI Forge"),
    (r"neo", "Stable Diffusion WebUI Forge Neo"),
    (r"v?\d", "AUTOMATIC1111 Stable Diffusion WebUI"),
)
_DRAW_THINGS_LORA = re.compile(r"lora (\d+) model")
_MAX_LORAS = 200
_EASY_DIFFUSION = ("use_stable_diffusion_model", "stable diffusion model")


def parse(sources: Sources) -> ParserResult | None:
    """Read the first text in a known form."""
    if found := _easy_diffusion(sources):
        return found
    for entry in dict.fromkeys(_texts(sources)):
        if found := _json(entry) or _infotext(entry):
            return found
    return None


def _texts(sources: Sources) -> Iterator[TextEntry]:
    yield from sources.named("parameters", "parameters-json", "nmkdiffusion", "usercomment")
    yield from sources.named("generation_data")
    # Draw Things writes JSON beside infotext; JSON has more fields.
    yield from sources.exif("UserComment")
    yield from sources.xmp("exif:UserComment")
    yield from sources.comments()
    yield from sources.exif()
    yield from (one for one in sources.walk.xmp if "Steps: " in one.text)
    yield from (one for one in sources.texts if "Steps: " in one.text)


def _infotext(entry: TextEntry) -> ParserResult | None:
    text = infotext.parse(entry.text)
    if text is None:
        return None
    source, generator = _generator(text)
    found = ParserResult(source, generator=generator)
    found.cite(entry, EvidenceClass.GENERATOR_BLOCK, f"infotext of {generator}")
    found.set("prompt", as_text(text.prompt))
    found.set("negativePrompt", as_text(text.negative))
    found.set("steps", as_int(text.get("steps")))
    found.set("sampler", text.get("sampler"))
    found.set("scheduler", text.get("schedule type", "scheduler"))
    found.set("cfgScale", as_float(text.get("cfg scale", "guidance scale", "guidance")))
    found.set("seed", text.get("seed"))
    found.set("vae", text.get("vae"))
    found.set("clipSkip", as_int(text.get("clip skip")))
    found.set("version", text.get("version"))
    found.set("fullParametersText", entry.text)
    found.set_model(text.get("model"))
    found.raw = {key: value for key, value in text.settings.items() if key.lower() not in _SETTINGS}
    _resources(found, text)
    _loras(found, text)
    return found


def _generator(text: infotext.Infotext) -> tuple[Source, str]:
    """Return source and generator; several tools write infotext, and name themselves in it."""
    version = text.get("version") or ""
    if version.lower().startswith("fooocus"):
        return Source.FOOOCUS, "Fooocus"
    if "comfyui" in version.lower():
        return Source.COMFYUI, "ComfyUI"
    keys = {key.lower() for key in text.settings}
    if named := next((name for key, name in _BY_KEY if key in keys), None):
        return Source.STABLE_DIFFUSION, text.get("app") or named
    known = (name for pattern, name in _BY_VERSION if re.match(pattern, version))
    named = next(known, "Civitai" if "civitai resources" in keys else None)
    return Source.STABLE_DIFFUSION, named or version or "Stable Diffusion"


def _resources(found: ParserResult, text: infotext.Infotext) -> None:
    """Read the models that Civitai lists."""
    resources = load_json(text.get("civitai resources") or "")
    for one in resources if isinstance(resources, list) else []:
        if not isinstance(one, dict):
            continue
        # Civitai's generator names resources only by urn:air:sdxl:lora:civitai:1@2.
        urn = as_text(one.get("air")) or ""
        name = one.get("modelName") or urn
        kind = str(one.get("type") or [*urn.split(":"), *[""] * 4][3]).lower()
        if kind in ("checkpoint", "model"):
            found.set_model(name)
        elif kind in ("lora", "lycoris", "locon", "dora"):
            found.add_lora(name, one.get("weight"))
    if isinstance(resources, list):
        key = next(key for key in found.raw if key.lower() == "civitai resources")
        found.raw[key] = plain(resources)


def _loras(found: ParserResult, text: infotext.Infotext) -> None:
    hashes = _pairs(text.get("lora hashes"))
    weights = _pairs(text.get("lora weights"))
    for key, digest in (load_object(text.get("hashes") or "") or {}).items():
        if key.startswith("lora:"):
            hashes.setdefault(key[5:], as_text(digest) or "")
    for name, weight in loras_of(text.prompt):
        found.add_lora(name, weight, hashes.get(name))
    for name in hashes | weights:
        found.add_lora(name, weights.get(name), hashes.get(name))
    lower = {key.lower(): value for key, value in text.settings.items()}
    for key, value in lower.items():
        if match := _DRAW_THINGS_LORA.fullmatch(key):
            found.add_lora(value, lower.get(f"lora {match[1]} weight"))


def _pairs(text: str | None) -> dict[str, str]:
    """Return the values of ``name: value, name: value``."""
    found = {}
    for part in (text or "").split(",")[:_MAX_LORAS]:
        name, colon, value = part.strip(' "').rpartition(":")
        if colon:
            found[name.strip()] = value.strip()
    return found


def _json(entry: TextEntry) -> ParserResult | None:
    block = load_object(entry.text)
    if block is None:
        return None
    if isinstance(swarm := block.get("sui_image_params"), dict):
        return _swarm(entry, block, swarm)
    lower = {str(key).lower(): value for key, value in block.items()}
    # Blocks of other generators have their own parsers.
    if "base_model" in lower or "generation_id" in lower:
        return None
    if "c" in lower and {"uc", "model", "sampler"} & set(lower):
        found = _block(entry, lower, "Draw Things")
        for lora in _items(lower.get("lora")):
            if isinstance(lora, dict):
                found.add_lora(lora.get("model"), lora.get("weight"))
        return found
    needed = (_NAMES["prompt"], _NAMES["steps"], _NAMES["seed"])
    if not all(any(key in lower for key in keys) for keys in needed):
        return None
    easy = any(key in lower for key in _EASY_DIFFUSION)
    nmkd = entry.keyword.lower() == "nmkdiffusion"
    generator = "Easy Diffusion" if easy else "NMKD" if nmkd else "Stable Diffusion"
    found = _block(entry, lower, generator)
    _easy_loras(found, lower)
    # Tensor.Art lists its models.
    for one in _items(lower.get("models")):
        if isinstance(one, dict) and str(one.get("type")).lower() == "lora":
            found.add_lora(one.get("modelFileName"), one.get("weight"), one.get("hash"))
    return found


def _swarm(entry: TextEntry, block: dict[str, Any], params: dict[str, Any]) -> ParserResult:
    found = _block(entry, params, "SwarmUI")
    extra = load_object(block.get("sui_extra_data")) or {}
    found.set("version", as_text(extra.get("swarm_version")))
    _swarm_loras(found, params, block.get("sui_models"))
    found.raw |= rest_of(block, ("sui_image_params",))
    return found


def _block(entry: TextEntry, block: Mapping[str, Any], generator: str) -> ParserResult:
    """Return a finding from a flat block, by the names of `_NAMES`."""
    found = ParserResult(Source.STABLE_DIFFUSION, generator=generator, raw=rest_of(block, _USED))
    found.cite(entry, EvidenceClass.GENERATOR_BLOCK, f"parameters of {generator}")
    for name, keys in _NAMES.items():
        value = next((block[key] for key in keys if block.get(key) is not None), None)
        if name == "model":
            inner = value if isinstance(value, dict) else {"name": value}
            found.set_model(inner.get("name", inner.get("modelFileName")))
        else:
            found.set(name, _NUMBERS.get(name, as_text)(value))
    found.set("fullParametersText", entry.text)
    for lora, weight in loras_of(found.fields.get("prompt")):
        found.add_lora(lora, weight)
    return found


def _swarm_loras(found: ParserResult, params: Mapping[str, Any], models: Any) -> None:
    hashes: dict[str | None, Any] = {}
    for one in models if isinstance(models, list) else []:
        if isinstance(one, dict):
            hashes[model_name(as_text(one.get("name")))] = one.get("hash")
            if one.get("param") == "model" and as_text(one.get("hash")):
                found.raw["modelHash"] = as_text(one.get("hash"))
    names, weights = _items(params.get("loras")), _items(params.get("loraweights"))
    for index, name in enumerate(names):
        weight = weights[index] if index < len(weights) else None
        found.add_lora(name, weight, hashes.get(model_name(as_text(name))))


def _items(value: Any) -> list[Any]:
    """Return a list, also of a text with commas."""
    if isinstance(value, list):
        return value
    return [part.strip() for part in value.split(",")] if isinstance(value, str) and value else []


def _easy_diffusion(sources: Sources) -> ParserResult | None:
    """Read single texts, one for each parameter."""
    entry = next(sources.named(*_EASY_DIFFUSION), None)
    if entry is None:
        return None
    lower = {one.keyword.lower(): one.text for one in sources.texts}
    found = _block(entry, lower, "Easy Diffusion")
    found.fields["fullParametersText"] = "\n".join(f"{k}: {v}" for k, v in lower.items())
    _easy_loras(found, lower)
    return found


def _easy_loras(found: ParserResult, block: Mapping[str, Any]) -> None:
    names = block.get("use_lora_model", block.get("lora model"))
    weights = block.get("lora_alpha", block.get("lora strength"))
    parsed = [load_json(value) if isinstance(value, str) else value for value in (names, weights)]
    names, weights = (
        new if isinstance(new, list) else [old]
        for new, old in zip(parsed, (names, weights), strict=True)
    )
    for index, name in enumerate(names):
        found.add_lora(name, weights[index] if index < len(weights) else None)
