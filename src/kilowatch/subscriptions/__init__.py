"""A chosen set of metrics, from any sites and devices: their latest values and history in one go."""
