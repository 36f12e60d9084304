"""What every record that `--json` prints is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1


class Record(BaseModel):
    """What `--json` prints: frozen, and no unknown field."""

    model_config = ConfigDict(frozen=True, extra="forbid")
