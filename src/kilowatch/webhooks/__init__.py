"""Readings are posted to where a subscription's owner wants them, as they arrive."""
