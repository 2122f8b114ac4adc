"""Graphs of ComfyUI: nodes, links, and what can be reached from a sampler.

Every traversal visits a node once, so cycles end and shared nodes cost nothing.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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
_CONDITIONED = frozenset({"positive", "negative", *_BOTH_ROLES})
_SAMPLING = frozenset({"steps", "sigmas", "sampler_name", "sampler", "noise"})
_SELECTING = ("select", "input", "index", "switch", "boolean", "condition", "value")
_NUMBERED = re.compile(r"\D+?_?0*(\d+)")
_MAX_ORDERED = 20
"""Samplers whose order is found by what is behind them."""
_MAX_BEHIND = 2000
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
    cut: set[str] = field(default_factory=set)
    """Keys of the nodes that were too deep to be read."""

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
                plain = {name: _unwrapped(one) for name, one in inputs.items()}
                nodes[key] = Node(key, value["class_type"], plain)
        graph = cls(nodes)
        for node in list(nodes.values()):
            if unused := graph._unselected(node):
                used = {name: one for name, one in node.inputs.items() if name not in unused}
                nodes[node.key] = Node(node.key, node.kind, used)
        return graph

    def _unselected(self, node: Node) -> set[str]:
        """Return the links of a switch that were not taken."""
        lower = {name.lower(): name for name in node.inputs}
        if "on_true" not in lower and "switch" not in node.kind.lower():
            return set()
        given = (self._scalar(node.inputs.get(lower.get(name, "")), 8) for name in _SELECTING)
        chosen = next((one for one in given if isinstance(one, int)), None)
        if {"on_true", "on_false"} <= lower.keys():
            return set() if chosen is None else {lower["on_false" if chosen else "on_true"]}
        numbers = {
            name: int(match[1])
            for name, value in node.inputs.items()
            if as_link(value) and (match := _NUMBERED.fullmatch(name))
        }
        if chosen is None and numbers:
            chosen = min(numbers.values())  # takes the first that is connected
        wrong = {name for name, number in numbers.items() if number != chosen}
        return wrong if len(wrong) < len(numbers) else set()

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
        if not found:
            # Services have samplers of other forms: a node with both roles is as good.
            both = {"positive", "negative"}
            found = [n for n in self.nodes.values() if both <= {name for name, *_ in n.links()}][:1]
        behind = {node.key: self._samplers_behind(node) for node in found[:_MAX_ORDERED]}
        return sorted(found, key=lambda node: (*self._passes(node), behind.get(node.key, 0)))

    def _samplers_behind(self, sampler: Node) -> int:
        nodes = islice(self._upstream([sampler]), 1, _MAX_BEHIND)
        return sum(_is_sampler(node) for node in nodes)

    def _passes(self, node: Node) -> tuple[bool, bool]:
        """Sort key: first passes before passes over their result, samplers before detailers."""
        denoise = self._scalar(node.inputs.get("denoise"), 8)
        start = self._scalar(node.inputs.get("start_at_step"), 8)
        partial = isinstance(denoise, (int, float)) and denoise < 1
        later = isinstance(start, (int, float)) and start > 0
        return "sampler" not in node.kind.lower(), partial or later

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
                if node.key in seen:
                    continue
                if depth > MAX_DEPTH:
                    self.cut.add(node.key)
                    continue
                seen.add(node.key)
                yield node
                for _, key, _ in node.links():
                    if key in self.nodes:
                        queue.append((self.nodes[key], depth + 1))

    def nodes_behind(self, sampler: Node) -> list[Node]:
        """Return the loaders of a sampler: what is behind its model, before other inputs."""
        first = [
            self._target(sampler.inputs.get(name))
            for name in ("model", "guider", "basic_pipe", "pipe", "sdxl_tuple")
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

    def named_by_class(self, sampler: Node, pattern: re.Pattern[str]) -> str | None:
        """Return the name in the class of a node that configures a sampler."""
        for node in islice(self._upstream([sampler]), _MAX_CONFIGURING):
            if not _is_sampler(node) and (match := pattern.fullmatch(node.kind)):
                words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", match[1])
                return words.lower()
        return None

    def _scalar(self, value: Any, depth: int = MAX_DEPTH) -> Any:
        """Return a value; that of a linked primitive node."""
        for _ in range(depth):
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
        own = (name for name in sampler.inputs if _role_of(name) == role)
        for name in (role, *own, *_BOTH_ROLES):
            value = sampler.inputs.get(name)
            if isinstance(value, str):
                texts.append(value)
            elif target := self._target(value):
                if role == "negative" and _role_of(name) != role:
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
    kind = node.kind.lower()
    # "easy preSampling" has the settings of the sampler behind it.
    if not _CONDITIONED & node.inputs.keys() or "loader" in kind or "presampl" in kind:
        return False
    return bool(_SAMPLING & node.inputs.keys()) or "sampler" in kind


def _unwrapped(value: Any) -> Any:
    """Return the value of an input that has a picture beside it, or is wrapped as no link."""
    if isinstance(value, dict):
        for key in ("__value__", "content"):
            if isinstance(value.get(key), (str, int, float)):
                return value[key]
    return value


class _TextReader:
    """Collects the texts behind a conditioning, each node once."""

    def __init__(self, graph: Graph, role: str) -> None:
        self._graph = graph
        self._role = role
        self._seen: set[tuple[str, int]] = set()

    def texts(self, node: Node, output: int, depth: int) -> list[str]:
        """Return texts in the order of the inputs."""
        if (node.key, output) in self._seen:
            return []
        if depth > MAX_DEPTH:
            self._graph.cut.add(node.key)
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
    if "negative" in lower or lower in ("uncond", "neg", "neg_conditioning"):
        return "negative"
    if "positive" in lower or lower in ("cond", "cond1", "cond2", "pos"):
        return "positive"
    return None


def from_workflow(workflow: Mapping[str, Any]) -> dict[str, Any]:
    """Return the editor's graph in the form of an executed one, for nodes with known widgets."""
    return _Editor(workflow).prompt()


_End = tuple[str, int]
"""The key of a node and its output."""
_MUTED, _BYPASSED = 2, 4
_SUBGRAPH_INPUT, _SUBGRAPH_OUTPUT = -10, -20
_MAX_SUBGRAPHS = 8
_MAX_ELEMENTS = 200_000
"""Nodes and links; a subgraph counts each time that it is used."""
_LINK_FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
_CONTROLS = frozenset({"fixed", "increment", "decrement", "randomize"})
"""Values of "control after generate", which has no input."""


class _Editor:
    """Reads an editor's graph with its subgraphs, bypassed nodes, and named connections."""

    def __init__(self, workflow: Mapping[str, Any]) -> None:
        definitions = workflow.get("definitions")
        listed = definitions.get("subgraphs") if isinstance(definitions, dict) else None
        self._subgraphs = {str(one.get("id")): one for one in _dicts(listed)}
        self._nodes: dict[str, dict[str, Any]] = {}
        self._same: dict[_End, _End] = {}
        """Outputs that stand for another one."""
        self._set: dict[str, _End] = {}
        self._got: dict[str, str] = {}
        self._left = _MAX_ELEMENTS
        self._read(workflow, "", 0)
        for key, name in self._got.items():
            if name in self._set:
                self._same[key, 0] = self._set[name]

    def prompt(self) -> dict[str, Any]:
        """Return the nodes with their links."""
        for node in self._nodes.values():
            inputs = node["inputs"]
            inputs |= {n: self._resolved(v) for n, v in inputs.items() if isinstance(v, tuple)}
        return self._nodes

    def _resolved(self, start: Any) -> list[Any]:
        end = start
        for _ in range(MAX_DEPTH):
            if end not in self._same:
                break
            end = self._same[end]
        self._same[start] = end
        return list(end)

    def _read(self, graph: Mapping[str, Any], prefix: str, depth: int) -> None:
        """Read a graph; ``prefix`` begins the keys of a subgraph's nodes."""
        ends: dict[Any, _End] = {}
        links, nodes = graph.get("links"), _dicts(graph.get("nodes"))
        self._left -= len(nodes) + (len(links) if isinstance(links, list) else 0)
        if self._left < 0:
            return
        for link in links if isinstance(links, list) else []:
            # A list in the outer graph, an object in a subgraph.
            given = [link.get(key) for key in _LINK_FIELDS] if isinstance(link, dict) else link
            if not isinstance(given, list) or len(given) < len(_LINK_FIELDS):
                continue
            number, origin, slot, target, target_slot = given[: len(_LINK_FIELDS)]
            if not isinstance(number, int) or not isinstance(slot, int):
                continue
            inner = depth and origin == _SUBGRAPH_INPUT
            ends[number] = (f"{prefix}in" if inner else f"{prefix}{origin}"[:200], slot)
            if depth and target == _SUBGRAPH_OUTPUT and isinstance(target_slot, int):
                self._same[prefix[:-1], target_slot] = ends[number]
        # Subgraphs come last: there may be more of their nodes than are read.
        for node in sorted(nodes, key=lambda one: str(one.get("type")) in self._subgraphs):
            if isinstance(node.get("type"), str) and len(self._nodes) < MAX_NODES:
                self._node(node, f"{prefix}{node.get('id')}"[:200], ends, depth)

    def _node(
        self, node: Mapping[str, Any], key: str, ends: Mapping[Any, _End], depth: int
    ) -> None:
        kind = node["type"]
        inputs = _dicts(node.get("inputs"))
        links = [one.get("link") for one in inputs]
        sources = [ends.get(link) if isinstance(link, int) else None for link in links]
        if node.get("mode") == _MUTED:
            return
        if node.get("mode") == _BYPASSED:
            for slot, output in enumerate(_dicts(node.get("outputs"))):
                pairs = zip(inputs, sources, strict=True)
                same = (end for one, end in pairs if end and one.get("type") == output.get("type"))
                if end := next(same, None):
                    self._same[key, slot] = end
        elif kind in self._subgraphs:
            if depth >= _MAX_SUBGRAPHS:
                return
            self._same |= {(f"{key}:in", slot): end for slot, end in enumerate(sources) if end}
            self._read(self._subgraphs[kind], f"{key}:", depth + 1)
        elif kind in ("SetNode", "GetNode"):
            values = node.get("widgets_values")
            name = str(values[0]) if isinstance(values, list) and values else ""
            if kind == "GetNode":
                self._got[key] = name
            elif end := next((one for one in sources if one), None):
                self._set[name] = end
        else:
            linked = {
                str(one.get("name")): end for one, end in zip(inputs, sources, strict=True) if end
            }
            self._nodes[key] = {"class_type": kind, "inputs": {**_widgets(node), **linked}}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _widgets(node: Mapping[str, Any]) -> dict[str, Any]:
    values = node.get("widgets_values")
    if isinstance(values, dict):
        return dict(values)
    if not isinstance(values, list):
        return {}
    # Newer editors name all widgets; older ones only those that are linked.
    widgets = [one.get("widget") for one in _dicts(node.get("inputs"))]
    named = [str(one.get("name")) for one in widgets if isinstance(one, dict)]
    own = [one for one in values if not (isinstance(one, str) and one in _CONTROLS)]
    if named and len(named) == len(own):
        return dict(zip(named, own, strict=True))
    known = zip(_WIDGETS.get(str(node.get("type")), ()), values, strict=False)
    return {name: value for name, value in known if name}
