"""Content Credentials (C2PA), read with c2pa-python in the confined worker.

The library validates signatures. Whether an issuer is who it claims to be depends on the trust list
of the operator: anyone can make a certificate with the name of a well-known company.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

try:
    import c2pa
except ImportError:  # the extra is not installed
    c2pa = None

MEDIA_TYPES: Mapping[str, str] = {
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "tiff": "image/tiff",
    "dng": "image/x-adobe-dng",
    "heic": "image/heic",
    "heif": "image/heif",
    "avif": "image/avif",
    "svg": "image/svg+xml",
    "jxl": "image/jxl",
}
"""Formats in which the library reads manifests."""

_TAMPERED = frozenset(
    {
        "assertion.dataHash.mismatch",
        "assertion.bmffHash.mismatch",
        "assertion.boxesHash.mismatch",
        "assertion.collectionHash.mismatch",
        "assertion.hashedURI.mismatch",
        "assertion.missing",
        "assertion.undeclared",
        "claimSignature.mismatch",
        "ingredient.manifest.mismatch",
        "ingredient.hashedURI.mismatch",
        "ingredient.claimSignature.mismatch",
    }
)
_EXPIRED = frozenset({"signingCredential.expired", "claimSignature.outsideValidity"})
_IGNORED = frozenset(
    {
        "signingCredential.untrusted",
        # The revocation was not checked, or there is none; `.ocsp.revoked` is a failure.
        "signingCredential.ocsp.inaccessible",
        "signingCredential.ocsp.notRevoked",
        "signingCredential.ocsp.skipped",
        "signingCredential.ocsp.unknown",
        # The ingredient cannot be checked; that does not concern the claim itself.
        "ingredient.claimSignature.missing",
        "ingredient.claimSignature.validated",
        "ingredient.manifest.missing",
        "ingredient.manifest.validated",
        "ingredient.unknownProvenance",
    }
)
"""Codes by exact name: a code that is not known here may be a failure."""
_TIME_STAMP = "timeStamp."
"""A time stamp with any fault is as good as none; the claim stays."""
_UNTRUSTED = frozenset(
    {
        "signingCredential.untrusted",
        "signingCredential.invalid",
        "signingCredential.revoked",  # specification 1
        "signingCredential.ocsp.revoked",
        "signingCredential.ocsp.unknown",  # the CA does not know its own certificate
    }
)
_TRUSTED = "signingCredential.trusted"
_EVERY_ACTION = "*"
_AGENT_KEYS = ("softwareAgent", "softwareAgentIndex")
_MAX_MANIFESTS = 200
_MAX_ACTIONS = 1000


class CredentialsReader:
    """Reads manifest stores; `version` is None if the library is not installed."""

    def __init__(self, trust_list: str) -> None:
        """``trust_list`` is the text of a PEM file; empty: every issuer is untrusted."""
        self.version: str | None = None
        self._context: Any = None
        if c2pa is None:
            return
        # `load_settings` is ignored by `Reader`, whose default fetches addresses out of the file.
        settings: dict[str, Any] = {
            "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
        }
        if trust_list:
            settings["trust"] = {"user_anchors": trust_list}
            settings["verify"]["verify_trust"] = True
        self._context = c2pa.Context(c2pa.Settings.from_dict(settings))
        self._has_trust_list = bool(trust_list)
        self.version = c2pa.__version__

    def read(self, file: BinaryIO, image_format: str) -> dict[str, Any] | None:
        """Return whether the manifests of a file are valid, and their claims; None without any."""
        media_type = MEDIA_TYPES.get(image_format)
        if self._context is None or media_type is None:
            return None
        try:
            with c2pa.Reader(media_type, file, context=self._context) as reader:
                store = json.loads(reader.json())
                remote = reader.get_remote_url()
        except c2pa.C2paError as error:
            return _unread(str(error))
        finally:
            # Its callbacks are in executable memory, of which the sandbox allows no more.
            gc.collect()
        return _described(store, remote, has_trust_list=self._has_trust_list)


def _unread(reason: str) -> dict[str, Any] | None:
    if reason.startswith("ManifestNotFound"):
        return None
    remote = reason.startswith("Remote")
    url = reason.rpartition(" ")[2] if remote and "://" in reason else None
    return _result("remote" if remote else "unreadable", "untrusted", remote_url=url)


def _result(state: str, trust: str, **known: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "issuer": None,
        "claim_generator": None,
        "generators": [],
        "actions": [],
        "codes": [],
        "active_manifest": None,
        "manifests": [],
        "remote_url": None,
        "signed_at": None,
    }
    return {"state": state, "trust": trust, **empty, **known}


def _described(store: Any, remote: str | None, *, has_trust_list: bool) -> dict[str, Any]:
    manifests = store.get("manifests") or {}
    active = store.get("active_manifest")
    walked = list(_walked(manifests, active))
    codes = [str(one.get("code")) for one in store.get("validation_status") or []]
    results = (store.get("validation_results") or {}).get("activeManifest") or {}
    passed = {str(one.get("code")) for one in results.get("success") or []}
    signature = (manifests.get(active) or {}).get("signature_info") or {}
    # Without a trust list the library's own verdict must not count.
    trusted = has_trust_list and _TRUSTED in passed and not _UNTRUSTED & set(codes)
    generators = [name for one in walked for name in _generators(one)]
    return _result(
        _state(codes),
        "trusted" if trusted else "untrusted",
        issuer=signature.get("issuer"),
        claim_generator=next(iter(_generators(manifests.get(active) or {})), None),
        generators=list(dict.fromkeys(generators)),
        actions=[action for one in walked for action in _actions(one)][:_MAX_ACTIONS],
        codes=list(dict.fromkeys(codes)),
        active_manifest=active,
        manifests=list(manifests)[:_MAX_MANIFESTS],
        remote_url=remote,
        signed_at=signature.get("time"),
    )


def _state(codes: Iterable[str]) -> str:
    found = set(codes)
    if found & _TAMPERED:
        return "tampered"
    if found & _EXPIRED:
        return "expired"
    failures = {code for code in found - _IGNORED if not code.startswith(_TIME_STAMP)}
    return "unreadable" if failures else "valid"


def _walked(manifests: Mapping[str, Any], active: Any) -> Iterator[dict[str, Any]]:
    """Yield the active manifest, then those of its ingredients, each once."""
    waiting: list[Any] = [active]
    seen: set[Any] = set()
    while waiting and len(seen) < _MAX_MANIFESTS:
        label = waiting.pop(0)
        if label in seen or not isinstance(manifests.get(label), dict):
            continue
        seen.add(label)
        yield {**manifests[label], "label": label}
        ingredients = _objects(manifests[label].get("ingredients"))
        waiting.extend(one.get("active_manifest") for one in ingredients)


def _generators(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the programs that made a claim."""
    if isinstance(text := manifest.get("claim_generator"), str) and text:
        yield text
    for one in _objects(manifest.get("claim_generator_info")):
        if isinstance(name := one.get("name"), str):
            version = one.get("version")
            yield f"{name} {version}" if isinstance(version, str) else name


def _actions(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for assertion in _objects(manifest.get("assertions")):
        block = assertion.get("data")
        if not str(assertion.get("label", "")).startswith("c2pa.actions"):
            continue
        if not isinstance(block, Mapping):
            continue
        templates = list(_objects(block.get("templates")))
        for written in _objects(block.get("actions")):
            action = _completed(written, templates)
            yield {
                "action": action.get("action"),
                "software_agent": _agent(action, block.get("softwareAgents")),
                "digital_source_type": action.get("digitalSourceType"),
                "manifest": manifest["label"],
            }


def _completed(
    action: Mapping[str, Any], templates: Iterable[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return an action with the fields that it takes from a template of `c2pa.actions.v2`."""
    for template in templates:
        if template.get("action") in (action.get("action"), _EVERY_ACTION):
            # Its own agent must not be replaced by one of the template in the other form.
            own = any(key in action for key in _AGENT_KEYS)
            fields = {k: v for k, v in template.items() if not (own and k in _AGENT_KEYS)}
            action = {**fields, **action}
    return action


def _agent(action: Mapping[str, Any], agents: Any) -> Any:
    """Return the name of the software that performed an action.

    Version 2 of the assertion lists the agents once, and actions refer to them by index.
    """
    agent = action.get("softwareAgent")
    index = action.get("softwareAgentIndex")
    if agent is None and isinstance(agents, list) and type(index) is int:  # True is no index
        agent = agents[index] if 0 <= index < len(agents) else None
    return agent.get("name") if isinstance(agent, Mapping) else agent


def _objects(values: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a list; a manifest may have anything in its place."""
    for value in values if isinstance(values, list) else ():
        if isinstance(value, Mapping):
            yield value
