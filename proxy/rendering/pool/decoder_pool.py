"""Workers with the decoders that most servers do not need."""

from __future__ import annotations

from types import MappingProxyType

from proxy.rendering.pool.pool import WorkerPool


class DecoderPool(WorkerPool):
    """Workers that decode what libvips does not: see `proxy.rendering.worker.imaging.decoders`."""

    _extra = MappingProxyType({"decoders": "on"})
