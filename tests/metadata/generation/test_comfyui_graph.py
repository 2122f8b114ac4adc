"""Traversal of graphs: texts through custom nodes, roles, primitives."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.metadata.generation.comfyui_graph import Graph, as_link, from_workflow
from tests.metadata.generation.test_comfyui import node


def prompts(**nodes: dict[str, Any]) -> tuple[str | None, str | None]:
    """Return both prompts of the sampler ``s``."""
    graph = Graph.of(nodes)
    sampler = graph.nodes["s"]
    return graph.prompt(sampler, "positive"), graph.prompt(sampler, "negative")


SAMPLER = node("KSampler", positive=["p", 0], negative=["n", 0], steps=20)


@pytest.mark.parametrize(
    "nodes",
    [
        {"p": node("CLIPTextEncode", text="yes")},
        {
            "p": node("CLIPTextEncode", text=["t", 0]),
            "t": node("PrimitiveStringMultiline", value="yes"),
        },
        {"p": node("CLIPTextEncode", text=["t", 0]), "t": node("Text Multiline", text="yes")},
        {"p": node("CLIPTextEncodeSDXL", text_g="yes", text_l="yes", width=1024)},
        {"p": node("CLIPTextEncodeFlux", clip_l="yes", t5xxl="yes", guidance=3.5)},
        {"p": node("TextEncodeQwenImageEdit", prompt="yes", clip=["c", 0])},
        {
            "p": node("CLIPTextEncode", text=["w", 0]),
            "w": node("ImpactWildcardProcessor", wildcard_text="{yes|no}", populated_text="yes"),
        },
        {
            "p": node("CLIPTextEncode", text=["j", 0]),
            "j": node("StringConcatenate", string_a="y", string_b=["t", 0], delimiter=""),
            "t": node("String Literal", string="es"),
        },
        {
            "p": node("CLIPTextEncode", text=["h", 0]),
            "h": node("ShowText|pysssh", text=["llm", 0], text_0="yes"),
            "llm": node("Ollama", prompt="write a prompt"),
        },
        {
            "p": node("ConditioningSetTimestepRange", conditioning=["q", 0], start=0),
            "q": node("Reroute", conditioning=["e", 0]),
            "e": node("CLIPTextEncode", text="yes"),
        },
        {
            "p": node("CLIPTextEncode", text=["x", 0]),
            "x": node("Any Switch (rgthree)", any_01=["t", 0]),
            "t": node("CR Text", text="yes"),
        },
    ],
)
def test_the_prompt_is_found_through_nodes_of_many_kinds(nodes: dict[str, Any]) -> None:
    assert prompts(s=SAMPLER, **nodes) == ("yes", None)


def test_nodes_with_both_roles_keep_them_apart() -> None:
    control = node("ControlNetApplyAdvanced", positive=["a", 0], negative=["b", 0], strength=1)
    texts = {"a": node("CLIPTextEncode", text="yes"), "b": node("CLIPTextEncode", text="no")}
    sampler = node("KSampler", positive=["c", 0], negative=["c", 1], steps=1)
    assert prompts(s=sampler, c=control, **texts) == ("yes", "no")
    loader = node("Efficient Loader", positive="yes", negative="no", ckpt_name="x")
    efficient = node("KSampler (Efficient)", positive=["l", 1], negative=["l", 2], steps=1)
    assert prompts(s=efficient, l=loader) == ("yes", "no")
    bridge = node("WanVideoTextEmbedBridge", positive=["a", 0], negative=["b", 0])
    assert prompts(s=node("WanVideoSampler", text_embeds=["w", 0]), w=bridge, **texts) == (
        "yes",
        "no",
    )
    styler = node("SDXLPromptStyler", text_positive="yes", text_negative="no", style="x")
    linked = {
        "p": node("CLIPTextEncode", text=["t", 0]),
        "n": node("CLIPTextEncode", text=["t", 1]),
    }
    assert prompts(s=SAMPLER, t=styler, **linked) == ("yes", "no")


def test_a_conditioning_that_is_zeroed_has_no_text() -> None:
    nodes = {
        "p": node("CLIPTextEncode", text="yes"),
        "n": node("ConditioningZeroOut", conditioning=["p", 0]),
    }
    assert prompts(s=SAMPLER, **nodes) == ("yes", None)


def test_texts_of_combined_conditionings_are_lines() -> None:
    nodes = {
        "p": node("ConditioningCombine", conditioning_1=["a", 0], conditioning_2=["b", 0]),
        "a": node("CLIPTextEncode", text="one"),
        "b": node("CLIPTextEncode", text="two"),
    }
    assert prompts(s=SAMPLER, **nodes)[0] == "one\ntwo"


def test_a_setting_is_followed_to_a_primitive() -> None:
    graph = Graph.of(
        {
            "s": node("KSampler", seed=["a", 0], steps=["b", 0], positive=["p", 0]),
            "a": node("Seed (rgthree)", seed=42),
            "b": node("Reroute", value=["c", 0]),
            "c": node("PrimitiveInt", value=30),
        }
    )
    sampler = graph.samplers()[0]
    assert (graph.setting(sampler, "seed"), graph.setting(sampler, "steps")) == (42, 30)
    assert graph.setting(sampler, "cfg") is None


def test_loops_of_primitives_end() -> None:
    graph = Graph.of(
        {"s": node("KSampler", seed=["a", 0], positive="x"), "a": node("X", value=["a", 0])}
    )
    assert graph.setting(graph.nodes["s"], "seed") is None


def test_the_sampler_of_a_saved_image_comes_before_others() -> None:
    graph = Graph.of(
        {
            "1": node("KSampler", positive=["p", 0], steps=1),
            "2": node("KSampler", positive=["p", 0], steps=2),
            "3": node("FaceDetailer", positive=["p", 0], steps=3, image=["2", 0]),
            "4": node("KSamplerAdvanced", positive=["p", 0], steps=4, start_at_step=10),
            "5": node("ControlNetApplyAdvanced", positive=["p", 0], negative=["p", 0]),
            "9": node("SaveImage", images=["3", 0]),
        }
    )
    assert [one.key for one in graph.samplers()] == ["2", "1", "4", "3"]


@pytest.mark.parametrize(
    "value", [[], ["a"], ["a", "b"], [True, 0], ["a", 0, 1], "a", None, [["a"], 0]]
)
def test_what_is_no_link_is_none(value: Any) -> None:
    assert as_link(value) is None


@pytest.mark.parametrize(
    "workflow",
    [
        {},
        {"nodes": 5, "links": {}},
        {"nodes": [None, {}, {"type": 5}], "links": [[], [1], "x", [1, {}, None]]},
        {
            "nodes": [
                {"type": "KSampler", "widgets_values": {"seed": 5}, "inputs": [None, {"link": []}]}
            ]
        },
    ],
)
def test_damaged_editor_graphs_never_fail(workflow: dict[str, Any]) -> None:
    Graph.of(from_workflow(workflow))
