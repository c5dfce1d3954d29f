"""Readings go out as they arrive, and in the order in which they did."""
