"""Which providers there are: those that have a key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pytest_aiohttp.plugin import AiohttpServer

from proxy.analysis.providers.factory import (
    open_providers,
    provider_faults,
    values_of_answers,
)
from proxy.app.startup_checks import installation_faults
from proxy.domain.errors import ConfigurationError
from proxy.settings import Settings, VisionSettings
from tests.analysis.providers.service import (
    GOOGLE_ANSWER,
    KEY,
    SEEN,
    Service,
    completion,
    says,
)


@pytest.mark.parametrize(
    ("sections", "names"),
    [
        ({}, []),
        ({"google": {"key": KEY}}, ["google"]),
        ({"openai": {"key": KEY}}, ["openai"]),
        ({"google": {"key": KEY}, "openai": {"key": KEY}}, ["google", "openai"]),
    ],
)
async def test_a_key_switches_a_provider_on(sections: dict[str, Any], names: list[str]) -> None:
    async with open_providers(VisionSettings(**sections)) as providers:
        assert [one.name for one in providers] == names


async def test_a_provider_asks_where_the_settings_say(
    service: Service, aiohttp_server: AiohttpServer, tmp_path: Path
) -> None:
    service.acts = [says(completion(json.dumps(SEEN)))]
    server = await aiohttp_server(service.app())
    (tmp_path / "key").write_text(f"{KEY}\n")
    section = {"key_file": str(tmp_path / "key"), "base_url": str(server.make_url("/v1/"))}
    async with open_providers(VisionSettings.model_validate({"openai": section})) as (provider,):
        found = await provider.analyse(b"x", "image/webp", "logo", (1, 1))
    assert (found.style, service.paths) == ("Impressionist", ["/v1/chat/completions"])
    assert service.headers[0]["Authorization"] == f"Bearer {KEY}"


async def test_a_key_file_that_is_missing_is_told_before_the_start(tmp_path: Path) -> None:
    vision = {"google": {"key_file": "gone"}, "openai": {"key_file": str(tmp_path)}}
    settings = Settings.model_validate({"vision": vision})
    told = provider_faults(settings.vision)
    assert [one.partition(":")[0] for one in told] == [
        "vision.google.key_file",
        "vision.openai.key_file",
    ]
    assert set(told) <= set(installation_faults(settings))
    with pytest.raises(ConfigurationError, match=r"vision\.google\.key_file"):
        async with open_providers(settings.vision):
            pass


def test_values_are_read_from_stored_answers() -> None:
    """An older version stored the answers, but not all values in them."""
    model = completion(json.dumps(SEEN))
    columns = {"raw_google_response": GOOGLE_ANSWER, "raw_gpt4_response": model}
    found = values_of_answers(columns)
    assert [one["name"] for one in found["labels"]] == ["Macaw", "Bird"]
    assert [one["name"] for one in found["detected_logos"]] == ["Kodak"]
    assert found["safe_search"]["racy"] == "VERY_LIKELY"
    # One that cannot be read does not hide the other.
    broken = values_of_answers({**columns, "raw_gpt4_response": {"choices": 7}})
    assert broken["safe_search"] == found["safe_search"]
    assert values_of_answers(dict.fromkeys(columns)) == {}
