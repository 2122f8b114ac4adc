"""ComfyUI: graphs of popular custom nodes, of new model families, and of the editor alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.generations import known, of_texts

SETTINGS: dict[str, Any] = {
    "seed": 5, "steps": 20, "cfg": 7.5, "sampler_name": "euler", "scheduler": "karras", "denoise": 1
}  # fmt: skip
EXPECTED: dict[str, Any] = {
    "source": "comfyui",
    "prompt": "a cat",
    "negativePrompt": "a dog",
    "seed": "5",
    "steps": 20,
    "cfgScale": 7.5,
    "sampler": "euler",
    "scheduler": "karras",
    "checkpoint": "base",
}
_LINK = re.compile(r"@(\w+)\.(\d+)")
_NODE = re.compile(r"(\d+) (.+?) (\{.*\})")


def linked(value: Any) -> Any:
    match = _LINK.fullmatch(value) if isinstance(value, str) else None
    return [match[1], int(match[2])] if match else value


def graphs() -> Iterator[Any]:
    """Yield the graphs of ``comfyui_graphs.txt`` with what differs from `EXPECTED`."""
    blocks = Path(__file__).with_name("comfyui_graphs.txt").read_text().split("\n\n")[1:]
    for block in blocks:
        header, *lines = block.strip().splitlines()
        name, _, differs = header.partition(": ")
        graph = {}
        for line in lines:
            match = _NODE.fullmatch(line)
            assert match, line
            inputs = json.loads(match[3])
            settings = SETTINGS if inputs.pop("settings", False) else {}
            values = {key: linked(value) for key, value in inputs.items()}
            graph[match[1]] = {"class_type": match[2], "inputs": {**settings, **values}}
        yield pytest.param(graph, json.loads(differs), id=name)


@pytest.mark.parametrize(("graph", "differs"), [*graphs()])
def test_graphs_of_custom_nodes_are_read_like_plain_ones(
    graph: dict[str, Any], differs: dict[str, Any]
) -> None:
    expected = {**EXPECTED, **differs}
    assert known(of_texts({"prompt": graph}), *expected) == expected


def workflow(*nodes: dict[str, Any], links: list[Any], **more: Any) -> dict[str, Any]:
    return {"nodes": list(nodes), "links": links, "version": 0.4, **more}


def node(
    number: int, kind: str, *values: Any, inputs: dict[str, int] | None = None, **more: Any
) -> dict[str, Any]:
    slots = [{"name": name, "link": link} for name, link in (inputs or {}).items()]
    return {"id": number, "type": kind, "widgets_values": list(values), "inputs": slots, **more}


LOADER = node(1, "CheckpointLoaderSimple", "base.safetensors")
CAT = node(6, "CLIPTextEncode", "a cat")
DOG = node(7, "CLIPTextEncode", "a dog")
SAMPLER = node(
    3, "KSampler", 5, "randomize", 20, 7.5, "euler", "karras", 1,
    inputs={"model": 1, "positive": 2, "negative": 3},
)  # fmt: skip
MODEL, POSITIVE, NEGATIVE = [1, 1, 0, 3, 0, "MODEL"], [2, 6, 0, 3, 1, "C"], [3, 7, 0, 3, 2, "C"]


def typed(names: dict[str, int | None], kind: str) -> list[dict[str, Any]]:
    return [{"name": name, "type": kind, "link": link} for name, link in names.items()]


EDITORS = {
    "plain": workflow(LOADER, CAT, DOG, SAMPLER, links=[MODEL, POSITIVE, NEGATIVE]),
    "reroute": workflow(
        LOADER, CAT, DOG, SAMPLER,
        {"id": 20, "type": "Reroute", "inputs": [{"name": "", "link": 9}]},
        links=[MODEL, [2, 20, 0, 3, 1, "C"], NEGATIVE, [9, 6, 0, 20, 0, "C"]],
    ),
    "bypassed node": workflow(
        LOADER, CAT, DOG, SAMPLER,
        {
            "id": 20, "type": "ControlNetApply", "mode": 4,
            "inputs": [*typed({"image": None}, "IMAGE"), *typed({"conditioning": 9}, "C")],
            "outputs": [{"name": "CONDITIONING", "type": "C"}],
        },
        links=[MODEL, [2, 20, 0, 3, 1, "C"], NEGATIVE, [9, 6, 0, 20, 1, "C"]],
    ),
    "muted node": workflow(
        LOADER, CAT, DOG, SAMPLER,
        {**node(30, "KSampler", 9, "fixed", 1, 1, "ddim", "simple", 1), "mode": 2},
        node(31, "SaveImage", "x", inputs={"images": 8}),
        links=[MODEL, POSITIVE, NEGATIVE, [8, 30, 0, 31, 0, "IMAGE"]],
    ),
    "set and get": workflow(
        LOADER, CAT, DOG, SAMPLER,
        node(20, "SetNode", "positive", inputs={"CONDITIONING": 9}),
        node(21, "GetNode", "positive"),
        links=[MODEL, [2, 21, 0, 3, 1, "C"], NEGATIVE, [9, 6, 0, 20, 0, "C"]],
    ),
    "primitive": workflow(
        LOADER, DOG, SAMPLER,
        {
            **node(6, "CLIPTextEncode", "old"),
            "inputs": [{"name": "text", "link": 9, "widget": {"name": "text"}}],
        },
        node(20, "PrimitiveNode", "a cat"),
        links=[MODEL, POSITIVE, NEGATIVE, [9, 20, 0, 6, 0, "STRING"]],
    ),
    "named widgets of an unknown class": workflow(
        LOADER, CAT, DOG,
        {
            "id": 3, "type": "KSampler Deluxe",
            "inputs": [
                {"name": "model", "link": 1}, {"name": "positive", "link": 2},
                {"name": "negative", "link": 3},
                *({"name": name, "link": None, "widget": {"name": name}} for name in SETTINGS),
            ],
            "widgets_values": [5, "randomize", *list(SETTINGS.values())[1:]],
        },
        links=[MODEL, POSITIVE, NEGATIVE],
    ),
    "subgraph": workflow(
        LOADER,
        {
            "id": 40, "type": "0a1b-subgraph",
            "inputs": [{"name": "model", "link": 1}, {"name": "positive", "link": 2}],
        },
        CAT,
        links=[[1, 1, 0, 40, 0, "MODEL"], [2, 6, 0, 40, 1, "C"]],
        definitions={"subgraphs": [{
            "id": "0a1b-subgraph",
            "nodes": [SAMPLER, DOG],
            "links": [
                {"id": n, "origin_id": o, "origin_slot": s, "target_id": 3, "target_slot": t}
                for n, o, s, t in ((1, -10, 0, 0), (2, -10, 1, 1), (3, 7, 0, 2))
            ],
        }]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("graph", EDITORS.values(), ids=list(EDITORS))
def test_a_graph_of_the_editor_alone_is_read_like_an_executed_one(graph: dict[str, Any]) -> None:
    assert known(of_texts({"workflow": graph}), *EXPECTED) == EXPECTED


def test_subgraphs_that_contain_themselves_end() -> None:
    inner = {"id": "s", "nodes": [{"id": i, "type": "s"} for i in range(100)], "links": []}
    graph = workflow(node(1, "s"), CAT, links=[], definitions={"subgraphs": [inner]})
    found = of_texts({"workflow": graph})
    assert (found["source"], found["prompt"]) == ("comfyui", "a cat")


def test_the_node_of_image_metahub_writes_both_graphs_and_its_parameters() -> None:
    graph = next(one for one in graphs() if one.id == "basic").values[0]
    block = {"generator": "ComfyUI", "prompt_api": graph, "workflow": {"nodes": []}}
    found = of_texts({"imagemetahub_data": block})
    assert known(found, *EXPECTED) == EXPECTED
    own = {
        "prompt": "a cat", "negativePrompt": "a dog", "seed": 5, "steps": 20, "cfg": 7.5,
        "sampler_name": "euler", "scheduler": "karras", "model": "base.safetensors",
        "loras": [{"name": "detail", "weight": 0.5}],
    }  # fmt: skip
    found = of_texts({"imagemetahub_data": own})
    assert known(found, *EXPECTED) == EXPECTED
    assert found["loras"] == [{"name": "detail", "weight": 0.5, "hash": None}]
