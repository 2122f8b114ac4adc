"""Content Credentials: generators and actions of any manifest in the store.

Anyone can sign with a certificate of any name. An untrusted signature is quoted as a claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.metadata.container.result import BlockKind
from proxy.metadata.generation.finding import (
    Evidence,
    EvidenceClass,
    Involvement,
    ParserResult,
    Source,
    Sources,
    as_text,
)
from proxy.metadata.generation.tools import tool_of

GENERATED = "trainedAlgorithmicMedia"
COMPOSITE = "compositeWithTrainedAlgorithmicMedia"
_CAPTURES = frozenset(
    {"digitalCapture", "computationalCapture", "negativeFilm", "positiveFilm", "print"}
)
_USABLE = frozenset({"valid", "expired"})
_WHERE = "C2PA"
_MAX_BYTES = 4 << 20
_MAX_NAMES_BYTES = 256 << 10
_SOURCE_TYPE = re.compile(rb"\b(composite[wW]ithT|t)rainedAlgorithmicMedia")


def parse(sources: Sources) -> ParserResult | None:
    """Read the result of the validation; without one, only names in the manifest's bytes."""
    credentials = sources.credentials
    if credentials is None:
        return _unverified(sources)
    # A tampered manifest proves nothing; of a remote one nothing is known.
    if credentials.get("state") not in _USABLE:
        return None
    types = [kind for action in _actions(credentials) if (kind := _type_of(action))]
    named = _named(credentials)
    involvement = _involvement(types)
    if involvement is None and not (named and named[2]):
        return None
    involvement = involvement or Involvement.GENERATED
    generator = named[1] if named else as_text(credentials.get("claim_generator"))
    found = ParserResult(Source.UNKNOWN, involvement, generator)
    if involvement is Involvement.GENERATED:
        found.source = named[0] if named else Source.OTHER
    if declared := next((one for one in types if one in (GENERATED, COMPOSITE)), None):
        found.set("digital_source_type", declared)
    found.evidence.append(_evidence(credentials, generator, declared))
    return found


def _actions(credentials: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    actions = credentials.get("actions")
    for action in actions if isinstance(actions, (list, tuple)) else ():
        if isinstance(action, Mapping):
            yield action


def _type_of(action: Mapping[str, Any]) -> str | None:
    written = as_text(action.get("digital_source_type"))
    return source_type(written) if written else None


def source_type(written: str) -> str:
    """Return the name of a source type that is written as a name or as an address."""
    token = re.split(r"[/#:]", written.strip().rstrip("/#:"))[-1]
    # Early files have `compositewithTrainedAlgorithmicMedia`.
    return next((one for one in (GENERATED, COMPOSITE) if one.lower() == token.lower()), token)


def _involvement(types: list[str]) -> Involvement | None:
    """Judge by source types, which are in the order from the active manifest to the oldest."""
    declared = [one for one in types if one in (GENERATED, COMPOSITE)]
    if not declared:
        return None
    # A photograph with a generated ingredient is a composite as well.
    if declared[0] == COMPOSITE or _CAPTURES & set(types):
        return Involvement.COMPOSITE
    return Involvement.GENERATED


def _named(credentials: Mapping[str, Any]) -> tuple[Source, str, bool] | None:
    """Return source, name, and whether the tool only generates; agents come before generators."""
    names = [as_text(action.get("software_agent")) for action in _actions(credentials)]
    generators = credentials.get("generators")
    names += [as_text(one) for one in (generators if isinstance(generators, (list, tuple)) else ())]
    names += [as_text(credentials.get("claim_generator")), as_text(credentials.get("issuer"))]
    known = [(tool, name) for name in names if name and (tool := tool_of(name))]
    if not known:
        return None
    tool, _ = known[0]
    always = any(one.only_generates for one, _ in known)
    return tool.source, tool.name, always


def _evidence(
    credentials: Mapping[str, Any], generator: str | None, declared: str | None
) -> Evidence:
    trusted = credentials.get("trust") == "trusted" and credentials.get("state") == "valid"
    issuer = as_text(credentials.get("issuer")) or "no issuer"
    what = ", ".join(part for part in (generator, declared) if part)
    if trusted:
        return Evidence(
            EvidenceClass.TRUSTED_CREDENTIALS, _WHERE, "manifest", f"{what}; signed by {issuer}"
        )
    state = "expired" if credentials.get("state") == "expired" else "untrusted"
    says = f'claims {what}; {state} signature that names "{issuer}"'
    return Evidence(EvidenceClass.UNTRUSTED_CREDENTIALS, _WHERE, "manifest", says)


def _unverified(sources: Sources) -> ParserResult | None:
    """Search the source type in the bytes of a manifest that was not validated."""
    block = sources.walk.block(BlockKind.C2PA)
    match = _SOURCE_TYPE.search(block.content, 0, _MAX_BYTES) if block else None
    if block is None or match is None:
        return None
    composite = match[1] != b"t"
    involvement = Involvement.COMPOSITE if composite else Involvement.GENERATED
    found = ParserResult(Source.UNKNOWN, involvement)
    text = block.content[:_MAX_NAMES_BYTES].decode("latin-1")
    if not composite and (tool := tool_of(text)):
        found.source, found.generator = tool.source, tool.name
    elif not composite:
        found.source = Source.OTHER
    found.set("digital_source_type", COMPOSITE if composite else GENERATED)
    says = "the manifest names the source type; its signature was not checked"
    found.evidence.append(Evidence(EvidenceClass.TOOL_STRING, block.where, "manifest", says))
    return found
