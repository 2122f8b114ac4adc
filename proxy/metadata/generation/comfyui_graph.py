"""Graphs of ComfyUI: nodes, links, and what can be reached from a sampler.

Every traversal visits a node once, so cycles end and shared nodes cost nothing.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

MAX_NODES = 10_000
MAX_DEPTH = 200

_PRIMITIVES = ("value", "string", "text", "seed", "int", "float", "number", "Value", "STRING")
_JOINING = ("concat", "joinstring", "stringfunction", "combinestring")
_TEXTS = re.compile(
    r"(?:populated_text|wildcard_text|text|prompt|string|value|caption|clip_[lg]|t5xxl|llama)"
    r"(?:_?[a-z0-9]{1,2}|_positive|_positive_[gl])?|(?:positive|any|input|result)(?:_\w{1,6})?",
    re.IGNORECASE,
)
_NO_TEXTS = frozenset(
    {
        *("clip", "model", "vae", "image", "images", "pixels", "samples", "latent"),
        *("latent_image", "mask", "control_net", "style_model", "clip_vision"),
        *("clip_vision_output", "delimiter", "separator", "seed", "mode"),
    }
)
_SAMPLES = frozenset({"latent_image", "samples", "latent", "image", "pixels", "images"})
_BOTH_ROLES = ("guider", "conditioning", "text_embeds", "basic_pipe", "pipe", "sdxl_tuple")
_MAX_CONFIGURING = 300
"""Nodes in which a setting of a sampler is searched."""
_OPPOSITE = {"positive": "negative", "negative": "positive"}
_WIDGETS: Mapping[str, tuple[str, ...]] = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        *("add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler"),
        *("start_at_step", "end_at_step"),
    ),
    "SamplerCustom": ("add_noise", "noise_seed", "", "cfg"),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "CheckpointLoader": ("config_name", "ckpt_name"),
    "UNETLoader": ("unet_name", "weight_dtype"),
    "UnetLoaderGGUF": ("unet_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "VAELoader": ("vae_name",),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "RandomNoise": ("noise_seed",),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "CFGGuider": ("cfg",),
    "FluxGuidance": ("guidance",),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
    "PrimitiveNode": ("value",),
}
"""Names of the widgets of a node in the editor's graph, in their order; empty: not an input."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node: its class and its inputs, which are values or links."""

    key: str
    kind: str
    inputs: Mapping[str, Any]

    def links(self) -> Iterator[tuple[str, str, int]]:
        """Yield the name of each linked input, the key of the other node, and its output."""
        for name, value in self.inputs.items():
            if link := as_link(value):
                yield name, *link


def as_link(value: Any) -> tuple[str, int] | None:
    """Return the node and output that an input is linked to."""
    if isinstance(value, list) and len(value) == 2:  # noqa: PLR2004 - key and output
        key, output = value
        if isinstance(key, (str, int)) and isinstance(output, int) and not isinstance(key, bool):
            return str(key)[:100], output
    return None


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes by key, in the order of the file."""

    nodes: dict[str, Node]

    @classmethod
    def of(cls, prompt: Mapping[str, Any]) -> Graph:
        """Return the graph of an executed prompt; what is no node is left out."""
        nodes: dict[str, Node] = {}
        for key, value in prompt.items():
            if len(nodes) >= MAX_NODES:
                break
            if isinstance(value, dict) and isinstance(value.get("class_type"), str):
                inputs = value.get("inputs")
                inputs = inputs if isinstance(inputs, dict) else {}
                nodes[key] = Node(key, value["class_type"], inputs)
        return cls(nodes)

    def _target(self, value: Any) -> tuple[Node, int] | None:
        link = as_link(value)
        node = self.nodes.get(link[0]) if link else None
        return (node, link[1]) if node and link else None

    def samplers(self) -> list[Node]:
        """Return samplers: the one that made the picture first, those that refined it after it.

        They are searched from the nodes that save images, then in the whole graph.
        """
        starts = [*self._sinks("save"), *self._sinks("preview")]
        found = [node for node in self._upstream(starts) if _is_sampler(node)]
        seen = {node.key for node in found}
        found += [n for n in self.nodes.values() if n.key not in seen and _is_sampler(n)]
        return sorted(found, key=_passes)

    def _sinks(self, word: str) -> list[Node]:
        return [
            node
            for node in self.nodes.values()
            if word in node.kind.lower() and any(name in _SAMPLES for name, *_ in node.links())
        ]

    def _upstream(self, starts: Iterable[Node]) -> Iterator[Node]:
        """Yield nodes breadth first; each start is finished before the next."""
        seen: set[str] = set()
        for start in starts:
            queue = deque([(start, 0)])
            while queue:
                node, depth = queue.popleft()
                if node.key in seen or depth > MAX_DEPTH:
                    continue
                seen.add(node.key)
                yield node
                for _, key, _ in node.links():
                    if key in self.nodes:
                        queue.append((self.nodes[key], depth + 1))

    def nodes_behind(self, sampler: Node) -> list[Node]:
        """Return the loaders of a sampler: what is behind its model, before other inputs."""
        first = [
            self._target(sampler.inputs.get(name)) for name in ("model", "guider", "basic_pipe")
        ]
        starts = [target[0] for target in first if target]
        nodes = list(self._upstream(starts))
        seen = {node.key for node in nodes}
        return nodes + [one for one in self._upstream([sampler]) if one.key not in seen]

    def setting(self, sampler: Node, *names: str) -> Any:
        """Return a setting of a sampler, or of the nodes that configure it."""
        queue = deque([(sampler, 0)])
        seen: set[str] = set()
        while queue and len(seen) < _MAX_CONFIGURING:
            node, depth = queue.popleft()
            if node.key in seen or depth > MAX_DEPTH:
                continue
            seen.add(node.key)
            for name in names:
                value = self._scalar(node.inputs.get(name))
                if value is not None:
                    return value
            for name, key, _ in node.links():
                # Other samplers are behind the latents; prompts have settings of other kinds.
                follow = name not in _SAMPLES and name != "negative"
                if follow and key in self.nodes and not _is_sampler(self.nodes[key]):
                    queue.append((self.nodes[key], depth + 1))
        return None

    def _scalar(self, value: Any) -> Any:
        """Return a value; that of a linked primitive node."""
        for _ in range(MAX_DEPTH):
            target = self._target(value)
            if target is None:
                break
            inputs = target[0].inputs
            value = next((inputs[name] for name in _PRIMITIVES if name in inputs), None)
        return value if isinstance(value, (str, int, float)) else None

    def prompt(self, sampler: Node, role: str) -> str | None:
        """Return the texts behind the positive or negative input of a sampler."""
        texts: list[str] = []
        reader = _TextReader(self, role)
        # A guider, a pipe or a bridge has both roles, so that the role is found behind it.
        for name in (role, *_BOTH_ROLES):
            value = sampler.inputs.get(name)
            if isinstance(value, str):
                texts.append(value)
            elif target := self._target(value):
                if role == "negative" and name != role:
                    target = self._with_role(target[0], role)
                texts += reader.texts(*target, 0) if target else []
            if texts:
                break
        unique = dict.fromkeys(text.strip() for text in texts)
        return "\n".join(text for text in unique if text) or None

    def _with_role(self, start: Node, role: str) -> tuple[Node, int] | None:
        """Return the next node with an input of a role; a guider may have a positive one only."""
        for node in islice(self._upstream([start]), _MAX_CONFIGURING):
            if any(_role_of(name) == role for name in node.inputs):
                return node, 0
        return None

    def only_text(self) -> str | None:
        """Return the text of the only node that encodes one."""
        encoders = [n for n in self.nodes.values() if "textencode" in n.kind.lower()]
        if len(encoders) != 1:
            return None
        return "\n".join(_TextReader(self, "positive").texts(encoders[0], 0, 0)).strip() or None


def _is_sampler(node: Node) -> bool:
    linked = {name for name, *_ in node.links()}
    conditioned = {"positive", "negative", "guider", "text_embeds", "basic_pipe", "sdxl_tuple"}
    kind = node.kind.lower()
    if not (conditioned & (linked | node.inputs.keys())) or "loader" in kind:
        return False
    sampling = {"steps", "sigmas", "sampler_name", "sampler", "noise"} & node.inputs.keys()
    return bool(sampling) or "sampler" in kind


def _passes(node: Node) -> tuple[bool, bool]:
    """Sort key: first passes before passes over their result, samplers before detailers."""
    denoise = node.inputs.get("denoise", 1)
    start = node.inputs.get("start_at_step", 0)
    partial = isinstance(denoise, (int, float)) and denoise < 1
    later = isinstance(start, (int, float)) and start > 0
    return "sampler" not in node.kind.lower(), partial or later


class _TextReader:
    """Collects the texts behind a conditioning, each node once."""

    def __init__(self, graph: Graph, role: str) -> None:
        self._graph = graph
        self._role = role
        self._seen: set[tuple[str, int]] = set()

    def texts(self, node: Node, output: int, depth: int) -> list[str]:
        """Return texts in the order of the inputs."""
        if depth > MAX_DEPTH or (node.key, output) in self._seen:
            return []
        self._seen.add((node.key, output))
        if "zeroout" in node.kind.lower():
            return []
        if (joined := self._joined(node, depth)) is not None:
            return [joined]
        found: list[str] = []
        for name in self._names(node, output):
            value = node.inputs[name]
            if isinstance(value, str):
                found.append(value)
            elif (link := as_link(value)) and (other := self._graph.nodes.get(link[0])):
                found += self.texts(other, link[1], depth + 1)
            if found and name.lower() in ("populated_text", "positive", "negative"):
                break
        return found

    def _names(self, node: Node, output: int) -> list[str]:
        """Return the inputs that lead to texts of the role."""
        opposite = _OPPOSITE[self._role]
        names = list(node.inputs)
        if re.search(r"show|display|preview", node.kind, re.IGNORECASE):
            # The text that was shown is stored beside the link to what made it.
            shown = [name for name in names if isinstance(node.inputs[name], str)]
            names = shown or names
        roles = {name: _role_of(name) for name in names}
        if self._role in roles.values() and opposite in roles.values():
            # Both are there: an output of its own for each, or one object with both.
            role = self._role
            kinds = node.kind.lower()
            if "controlnet" in kinds and output in (0, 1):
                role = ("positive", "negative")[output]
            return [name for name in names if roles[name] == role]
        candidates = [
            name
            for name in names
            if name.lower() not in _NO_TEXTS and roles[name] != opposite and self._leads(node, name)
        ]
        # A wildcard is replaced in the populated text.
        return sorted(candidates, key=lambda name: name.lower() != "populated_text")

    @staticmethod
    def _leads(node: Node, name: str) -> bool:
        if as_link(node.inputs[name]):
            return not name.lower().startswith(("model", "vae", "lora"))
        return bool(_TEXTS.fullmatch(name)) or _role_of(name) is not None

    def _joined(self, node: Node, depth: int) -> str | None:
        """Return the text of a node that joins strings, or None for other nodes."""
        kind = node.kind.lower()
        if not any(word in kind for word in _JOINING) or "conditioning" in kind:
            return None
        delimiter = node.inputs.get("delimiter", node.inputs.get("separator", ""))
        parts: list[str] = []
        for name, value in node.inputs.items():
            if not name.lower().startswith(("text", "string", "part", "prompt", "input")):
                continue
            if isinstance(value, str):
                parts.append(value)
            elif (link := as_link(value)) and (other := self._graph.nodes.get(link[0])):
                parts += self.texts(other, link[1], depth + 1)
        joint = delimiter.replace("\\n", "\n") if isinstance(delimiter, str) else ""
        return joint.join(part for part in parts if part)


def _role_of(name: str) -> str | None:
    lower = name.lower()
    if "negative" in lower or lower in ("uncond", "neg"):
        return "negative"
    if "positive" in lower or lower in ("cond", "pos"):
        return "positive"
    return None


def from_workflow(workflow: Mapping[str, Any]) -> dict[str, Any]:
    """Return the editor's graph in the form of an executed one, for classes with known widgets."""
    nodes, links = workflow.get("nodes"), workflow.get("links")
    ends: dict[Any, list[Any]] = {}
    for link in links if isinstance(links, list) else []:
        if isinstance(link, list) and len(link) > 2 and isinstance(link[0], int):  # noqa: PLR2004
            ends[link[0]] = [str(link[1]), link[2]]
    prompt: dict[str, Any] = {}
    for node in nodes if isinstance(nodes, list) else []:
        if not isinstance(node, dict) or not isinstance(node.get("type"), str):
            continue
        # Muted nodes and bypassed ones have not been executed.
        if node.get("mode") in (2, 4):
            continue
        prompt[str(node.get("id"))[:100]] = {
            "class_type": node["type"],
            "inputs": {**_widgets(node), **_linked(node, ends)},
        }
    return prompt


def _widgets(node: Mapping[str, Any]) -> dict[str, Any]:
    values = node.get("widgets_values")
    if isinstance(values, dict):
        return values
    names = _WIDGETS.get(str(node.get("type")), ())
    known = zip(names, values if isinstance(values, list) else [], strict=False)
    return {name: value for name, value in known if name}


def _linked(node: Mapping[str, Any], ends: Mapping[Any, list[Any]]) -> dict[str, Any]:
    inputs = node.get("inputs")
    return {
        str(one.get("name")): ends[one["link"]]
        for one in (inputs if isinstance(inputs, list) else [])
        if isinstance(one, dict) and isinstance(one.get("link"), int) and one["link"] in ends
    }
