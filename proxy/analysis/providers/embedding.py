"""A provider of embeddings: a model server with vLLM's ``/v1/embeddings``, which takes an image.

https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html, "Chat embeddings". It serves
CLIP, SigLIP and others from model files on a machine of the operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.analysis.providers.http_provider import RequestCost, VisionProvider
from proxy.domain.analysis import VisionResult
from proxy.domain.embedding import Embedding
from proxy.domain.errors import ProviderUnavailable
from proxy.settings.vision import EmbeddingSettings


class EmbeddingModel(VisionProvider[EmbeddingSettings]):
    """A vector for each image; those of similar images have a small angle."""

    name = "embedding"
    title = "The embedding model"
    column = ""
    path = "embeddings"
    key_header = ("Authorization", "Bearer {}")

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._settings.model

    def body(self, content: str, media_type: str, data_type: str) -> Mapping[str, Any]:
        """Return the request for an image in Base64."""
        del data_type
        url = {"url": f"data:{media_type};base64,{content}"}
        image = {"role": "user", "content": [{"type": "image_url", "image_url": url}]}
        return {"model": self.model, "messages": [image], "encoding_format": "float"}

    def expected_cost(self) -> RequestCost:
        """Return the price of a request; answers do not report another."""
        return RequestCost(usd=self._settings.usd_per_request)

    @staticmethod
    def recall(answer: Any, sent_size: tuple[int, int] | None = None) -> VisionResult:
        """Return the result of an answer."""
        try:
            (one,) = answer["data"]
            embedding = Embedding.of("", [float(value) for value in one["embedding"]])
        except (KeyError, TypeError, ValueError, OverflowError) as fault:
            raise ProviderUnavailable("The embedding model sent JSON of an unknown form") from fault
        return VisionResult(EmbeddingModel.name, {}, sent_size, embedding=embedding.vector)
