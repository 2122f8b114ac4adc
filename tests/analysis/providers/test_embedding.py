"""An embedding model over real HTTP: requests and answers."""

from __future__ import annotations

import base64
from typing import Any

import aiohttp
import pytest
from pytest_aiohttp.plugin import AiohttpServer

from proxy.analysis.providers.embedding import EmbeddingModel
from proxy.domain.errors import ProviderUnavailable
from proxy.settings.vision import EmbeddingSettings
from tests.analysis.providers.service import KEY, Service, embedded, says


@pytest.fixture
async def model(
    service: Service, session: aiohttp.ClientSession, aiohttp_server: AiohttpServer
) -> EmbeddingModel:
    base_url = str((await aiohttp_server(service.app())).make_url("/v1"))
    settings = EmbeddingSettings(base_url=base_url, model="siglip", backoff_s=0.01, timeout_s=5)
    return EmbeddingModel(settings, KEY, session=session, max_bytes=100_000)


async def test_a_request_has_the_form_of_the_api(service: Service, model: EmbeddingModel) -> None:
    service.acts = [says(embedded([3.0, 4.0] * 8))]
    found = await model.analyse(b"RIFF", "image/webp", "product", (4, 3))
    (sent,) = service.requests
    assert service.paths == ["/v1/embeddings"]
    assert service.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert (sent["model"], sent["encoding_format"]) == ("siglip", "float")
    (content,) = sent["messages"][0]["content"]
    assert content["image_url"]["url"] == f"data:image/webp;base64,{_base64(b'RIFF')}"
    assert found.embedding == pytest.approx([0.6 / 8**0.5, 0.8 / 8**0.5] * 8)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"data": []},
        {"data": [{"embedding": "AAAA"}]},
        {"data": [{"embedding": [1.0]}]},
        {"data": [{"embedding": [0.0] * 16}]},
        {"data": [{"embedding": [None] * 16}]},
        [],
        None,
    ],
)
async def test_an_answer_of_another_form_is_requested_again(
    answer: Any, service: Service, model: EmbeddingModel
) -> None:
    service.acts = [says(answer)]
    with pytest.raises(ProviderUnavailable):
        await model.analyse(b"RIFF", "image/webp", "product", (4, 3))
    assert len(service.requests) == 3
