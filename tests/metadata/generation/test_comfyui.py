"""ComfyUI: where graphs are, and what is read from them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from proxy.metadata.generation.detect import detect
from tests.support.containers import jpeg_with_comment, png_with_texts, tiff, walked, webp
from tests.support.generations import known, of_file, of_texts
from tests.support.golden import golden


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


BASIC = {
    "4": node("CheckpointLoaderSimple", ckpt_name="xl/sd_xl_base_1.0.safetensors"),
    "10": node(
        "LoraLoader", model=["4", 0], clip=["4", 1], lora_name="one.safetensors", strength_model=0.8
    ),
    "11": node(
        "LoraLoader",
        model=["10", 0],
        clip=["10", 1],
        lora_name="two.safetensors",
        strength_model=0.5,
    ),
    "12": node("CLIPSetLastLayer", clip=["11", 1], stop_at_clip_layer=-2),
    "6": node("CLIPTextEncode", text="a cat", clip=["12", 0]),
    "7": node("CLIPTextEncode", text="a dog", clip=["12", 0]),
    "5": node("EmptyLatentImage", width=512, height=512),
    "3": node(
        "KSampler",
        seed=18446744073709551615,
        steps=20,
        cfg=7.5,
        sampler_name="euler",
        scheduler="karras",
        denoise=1,
        model=["11", 0],
        positive=["6", 0],
        negative=["7", 0],
        latent_image=["5", 0],
    ),
    "15": node("VAELoader", vae_name="vae.pt"),
    "8": node("VAEDecode", samples=["3", 0], vae=["15", 0]),
    "9": node("SaveImage", images=["8", 0]),
}
WORKFLOW = {
    "id": "0a1b-workflow",
    "nodes": [{"id": 3, "type": "KSampler"}],
    "links": [],
    "version": 0.4,
}
EXPECTED = {
    "source": "comfyui",
    "generator": "ComfyUI",
    "prompt": "a cat",
    "negativePrompt": "a dog",
    "steps": 20,
    "cfgScale": 7.5,
    "sampler": "euler",
    "scheduler": "karras",
    "seed": "18446744073709551615",
    "checkpoint": "sd_xl_base_1.0",
    "model": "xl/sd_xl_base_1.0.safetensors",
    "vae": "vae.pt",
    "clipSkip": 2,
    "confidence": 0.9,
}


def exif(prompt: str, workflow: str) -> bytes:
    return tiff({0x0110: f"prompt:{prompt}", 0x010F: f"workflow:{workflow}"})


PROMPT, EDITOR = json.dumps(BASIC), json.dumps(WORKFLOW)


@pytest.mark.parametrize(
    "content",
    [
        png_with_texts({"prompt": PROMPT, "workflow": EDITOR}),
        png_with_texts({"Prompt": PROMPT, "Workflow": EDITOR}),
        webp((b"EXIF", exif(PROMPT, EDITOR))),
        webp((b"EXIF", tiff({0x010F: f"Prompt: {PROMPT}", 0x010E: f"Workflow: {EDITOR}"}))),
        jpeg_with_comment(json.dumps({"prompt": BASIC, "workflow": WORKFLOW})),
        jpeg_with_comment(json.dumps({"prompt": PROMPT, "workflow": EDITOR})),
    ],
)
def test_both_graphs_are_read_wherever_they_are(content: bytes) -> None:
    found = of_file(content)
    assert known(found, *EXPECTED) == EXPECTED
    assert [(one["name"], one["weight"]) for one in found["loras"]] == [("one", 0.8), ("two", 0.5)]
    raw = found["rawParameters"]
    assert known(raw, "comfyNodeCount", "comfyWorkflowId") == {
        "comfyNodeCount": len(BASIC),
        "comfyWorkflowId": "0a1b-workflow",
    }
    assert raw["workflow"] == WORKFLOW


def test_a_prompt_that_is_no_graph_is_not_comfyui() -> None:
    for prompt in ("a cat", '{"a": 1}', "[]", '{"1": {"inputs": {}}}'):
        assert of_texts({"prompt": prompt})["source"] == "unknown"


def test_the_editors_graph_alone_is_read() -> None:
    editor = {
        "nodes": [
            {
                "id": 3,
                "type": "KSampler",
                "widgets_values": [5, "fixed", 20, 8, "euler", "normal", 1],
                "inputs": [{"name": "positive", "link": 1}, {"name": "model", "link": 2}],
            },
            {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["a cat"]},
            {"id": 4, "type": "CheckpointLoaderSimple", "widgets_values": ["m.safetensors"]},
            {"id": 7, "type": "CLIPTextEncode", "widgets_values": ["muted"], "mode": 2},
        ],
        "links": [[1, 6, 0, 3, 1, "CONDITIONING"], [2, 4, 0, 3, 0, "MODEL"]],
    }
    found = of_texts({"workflow": editor})
    assert known(found, "source", "prompt", "seed", "steps", "checkpoint") == {
        "source": "comfyui",
        "prompt": "a cat",
        "seed": "5",
        "steps": 20,
        "checkpoint": "m",
    }
    assert found["rawParameters"]["comfyNodeCount"] == 4


def test_a_flux_guider_is_followed() -> None:
    graph = {
        "1": node("UNETLoader", unet_name="flux1-dev.safetensors"),
        "2": node(
            "LoraLoaderModelOnly", model=["1", 0], lora_name="ink.safetensors", strength_model=1
        ),
        "3": node("CLIPTextEncodeFlux", clip_l="a cat", t5xxl="a cat on a mat", guidance=3.5),
        "4": node("FluxGuidance", conditioning=["3", 0], guidance=2.5),
        "5": node("BasicGuider", model=["2", 0], conditioning=["4", 0]),
        "6": node("RandomNoise", noise_seed=42),
        "7": node("KSamplerSelect", sampler_name="euler"),
        "8": node("BasicScheduler", model=["2", 0], scheduler="simple", steps=25, denoise=1),
        "9": node(
            "SamplerCustomAdvanced",
            noise=["6", 0],
            guider=["5", 0],
            sampler=["7", 0],
            sigmas=["8", 0],
            latent_image=["0", 0],
        ),
        "10": node("SaveImage", images=["9", 0]),
    }
    assert known(
        of_texts({"prompt": graph}),
        *(
            "prompt",
            "negativePrompt",
            "seed",
            "steps",
            "cfgScale",
            "sampler",
            "scheduler",
            "checkpoint",
        ),
    ) == {
        "prompt": "a cat\na cat on a mat",
        "negativePrompt": None,
        "seed": "42",
        "steps": 25,
        "cfgScale": 2.5,
        "sampler": "euler",
        "scheduler": "simple",
        "checkpoint": "flux1-dev",
    }


def test_a_cfg_guider_has_both_prompts() -> None:
    graph = {
        "1": node("CLIPTextEncode", text="yes"),
        "2": node("CLIPTextEncode", text="no"),
        "3": node("CFGGuider", positive=["1", 0], negative=["2", 0], cfg=4),
        "4": node("SamplerCustomAdvanced", guider=["3", 0], sigmas=["5", 0], noise=["6", 0]),
    }
    assert known(of_texts({"prompt": graph}), "prompt", "negativePrompt", "cfgScale") == {
        "prompt": "yes",
        "negativePrompt": "no",
        "cfgScale": 4.0,
    }


def test_the_first_pass_counts_and_all_passes_are_listed() -> None:
    graph = {
        **BASIC,
        "20": node(
            "KSampler",
            seed=1,
            steps=8,
            cfg=3,
            denoise=0.5,
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["3", 0],
        ),
        "9": node("SaveImage", images=["20", 0]),
    }
    found = of_texts({"prompt": graph})
    assert known(found, "steps", "cfgScale") == {"steps": 20, "cfgScale": 7.5}
    assert [one["steps"] for one in found["rawParameters"]["samplers"]] == ["20", "8"]


def test_custom_nodes_of_loras_are_read() -> None:
    listed = [
        {"name": "c", "strength": 1, "active": True},
        {"name": "off3", "strength": 1, "active": False},
        None,
    ]
    graph = {
        "1": node(
            "Power Lora Loader (rgthree)",
            lora_1={"on": True, "lora": "a.safetensors", "strength": 0.7},
            lora_2={"on": False, "lora": "off.safetensors", "strength": 1},
            model=["2", 0],
        ),
        "2": node(
            "CR LoRA Stack",
            switch_1="On",
            lora_name_1="b.safetensors",
            model_weight_1=0.3,
            switch_2="Off",
            lora_name_2="off2.safetensors",
            lora_name_3="None",
        ),
        "3": node("Lora Loader (LoraManager)", loras={"__value__": listed}),
        "4": node("KSampler", seed=1, steps=1, model=["1", 0], positive=["9", 0]),
    }
    found = of_texts({"prompt": graph})
    assert {one["name"]: one["weight"] for one in found["loras"]} == {"a": 0.7, "b": 0.3, "c": 1.0}


def test_parameters_of_civitai_fill_what_the_graph_lacks() -> None:
    block = {
        "resource-stack": node("CheckpointLoaderSimple", ckpt_name="urn:air:x"),
        "extraMetadata": json.dumps({"prompt": "a cat", "steps": 30, "cfgScale": 5, "seed": 7}),
    }
    assert known(
        of_file(jpeg_with_comment(json.dumps(block))), "source", "prompt", "steps", "seed"
    ) == {
        "source": "comfyui",
        "prompt": "a cat",
        "steps": 30,
        "seed": "7",
    }


def test_a_cycle_of_ten_thousand_nodes_is_read_within_a_second() -> None:
    graph = {
        str(n): node("Reroute", conditioning=[str((n + 1) % 12_000), 0], model=[str(n // 2), 0])
        for n in range(12_000)
    }
    graph["5"] = node(
        "KSampler", seed=1, steps=20, positive=["6", 0], negative=["5", 0], model=["7", 0]
    )
    graph["9"] = node("SaveImage", images=["5", 0])
    content = png_with_texts({"prompt": json.dumps(graph)})
    started = time.process_time()
    found, warnings = detect(walked(content))
    assert time.process_time() - started < 20
    assert known(found, "seed", "steps", "prompt") == {"seed": "1", "steps": 20, "prompt": None}
    assert found["rawParameters"]["comfyNodeCount"] == 12_000
    assert warnings == (
        "The graph has more than 10,000 nodes; the rest is not read",
        "rawParameters.workflow is larger than 1 MiB and is left out",
    )


@pytest.mark.parametrize("count", [3000, 9000])
def test_graphs_of_samplers_only_are_bounded(count: int) -> None:
    graph = {
        str(n): node(
            "KSampler",
            model=[str(n + 1), 0],
            positive=[str(n + 2), 0],
            negative=[str(n - 1), 0],
            steps=[str(n), 0],
        )
        for n in range(count)
    }
    started = time.process_time()
    of_texts({"prompt": graph})
    assert time.process_time() - started < 20


def test_long_chains_of_texts_end() -> None:
    graph = {
        str(n): node("StringConcatenate", string_a=[str(n + 1), 0], string_b=[str(n + 1), 0])
        for n in range(5000)
    }
    graph["s"] = node("KSampler", positive=["0", 0], steps=1)
    assert of_texts({"prompt": graph})["prompt"] is None


GOLDEN = {
    "img2img": ("sample_dpmpp_2m", 20, "280823642470253", "v1-5-pruned-emaonly"),
    "night_evening_day_morning": ("dpmpp_sde", 13, "335608130539327", "Anything-V3.0"),
    "noisy_latents_3_subjects": ("sample_dpmpp_sde", 16, "200072334202574", "Anything-V3.0"),
    "unclip_2pass": ("uni_pc_bh2", 26, "1106257833005336", "cardosAnimated_v20"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_of_sd_parsers_are_read(name: str) -> None:
    path = golden(f"sd-parsers/tests__resources__parsers__ComfyUI__{name}_cropped.png")
    found = of_file(path.read_bytes())
    assert tuple(known(found, "sampler", "steps", "seed", "checkpoint").values()) == GOLDEN[name]
    assert found["negativePrompt"]


def test_all_texts_of_combined_conditionings_are_in_the_prompt() -> None:
    path = golden(
        "sd-parsers/tests__resources__parsers__ComfyUI__night_evening_day_morning_cropped.png"
    )
    prompt = of_file(path.read_bytes())["prompt"]
    for part in ("(daytime:1.2)", "(night:1.3)", "(evening:1.2)", "morning sky", "national park"):
        assert part in prompt


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("basic-ksampler", {"prompt": "beautiful landscape, mountains, sunset", "seed": "12345"}),
        ("hex-seed", {"seed": "0xABCDEF12"}),
        ("version-metadata", {"version": "1.2.3"}),
        ("controlnet-workflow", {"sampler": "euler_a", "steps": 25}),
        ("edit-history", {"seed": "77777"}),
        ("lora-workflow", {"steps": 30, "cfgScale": 7.5, "scheduler": "karras"}),
        ("model-hash", {"seed": "11111"}),
        ("primitive-string-multiline", {"seed": "381564805005045", "negativePrompt": None}),
    ],
)
def test_golden_graphs_of_image_metahub_are_read(name: str, fields: dict[str, Any]) -> None:
    found = of_texts(json.loads(golden(f"image-metahub/{name}.json").read_text()))
    assert found["source"] == "comfyui"
    assert known(found, *fields) == fields
    if name == "primitive-string-multiline":
        assert found["prompt"].startswith("Visualize a long, eel-like mutant lizard")
    if name == "model-hash":
        assert found["rawParameters"]["modelHash"] == "a1b2c3d4e5f6"
    if name == "lora-workflow":
        assert [one["name"] for one in found["loras"]] == ["style_lora_v1", "detail_tweaker"]


@pytest.mark.parametrize(
    ("name", "prompt"),
    [("comfy-xmp.avif", "AVIF fixture prompt"), ("comfyui.png", "a majestic lion in the savanna")],
)
def test_golden_files_of_image_metahub_are_read(name: str, prompt: str) -> None:
    found = of_file(golden(f"image-metahub/{name}").read_bytes())
    assert known(found, "source", "prompt", "steps") == {
        "source": "comfyui",
        "prompt": prompt,
        "steps": 20,
    }
