"""What requests about webhooks may say."""

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from kilowatch.kit.schemas import Body
from kilowatch.kit.text import Flag
from kilowatch.webhooks.addresses import Target
from kilowatch.webhooks.model import MAX_URL


def _target(url: str) -> str:
    Target.parse(url)
    return url


Url = Annotated[
    str,
    StringConstraints(min_length=10, max_length=MAX_URL, pattern=r"^https?://[\x21-\x7e]+$"),
    AfterValidator(_target),
]


class WebhookIn(Body):
    model_config = ConfigDict(json_schema_extra={"example": {"url": "https://example.org/kilowatch"}})
    url: Url = Field(description="`http` or `https`, on the internet; without user, password and fragment.")
    enabled: Flag = Field(
        default=True,
        description="False stops it. True starts it, from where it stopped, and at once if it is retrying.",
    )
    new_secret: Flag = Field(default=False, description="Replaces the secret.")
