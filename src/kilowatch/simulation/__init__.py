"""Devices with no hardware behind them: their readings are computed, from physics, when they are first needed."""
