"""What requests about subscriptions may say."""

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field

from kilowatch.kit.schemas import Body
from kilowatch.kit.text import MAX_ID, Name, number_only

MAX_METRICS = 10_000

MetricId = Annotated[int, Field(ge=1, le=MAX_ID), BeforeValidator(number_only)]
MetricIdList = Annotated[
    list[MetricId],
    Field(min_length=1, max_length=MAX_METRICS, description="Ids of metrics, each once, in the order they are wanted."),
]


class SubscriptionIn(Body):
    model_config = ConfigDict(json_schema_extra={"example": {"name": "My roofs", "metric_ids": [7, 12]}})
    name: Name
    metric_ids: MetricIdList


class SubscriptionChange(Body):
    model_config = ConfigDict(json_schema_extra={"example": {"name": "All my roofs"}})
    name: Name = Field(default="")
    metric_ids: MetricIdList = Field(default_factory=list, validate_default=False)
