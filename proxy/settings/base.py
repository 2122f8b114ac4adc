"""What all sections of the settings are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from proxy.domain.geometry import MAX_SIDE

Seconds = Annotated[float, Field(ge=0, le=10 * 365 * 86400)]
PositiveSeconds = Annotated[float, Field(gt=0, le=86400)]
Lifetime = Annotated[int, Field(ge=0, le=10 * 365 * 86400)]
Quality = Annotated[int, Field(ge=1, le=100)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class Section(BaseModel):
    """A frozen part of the settings; unknown keys are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid")
