"""What all request bodies have in common."""

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """A request body: unknown fields are refused, so that a misspelt one is never ignored."""

    model_config = ConfigDict(extra="forbid")
