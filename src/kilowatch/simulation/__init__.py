"""Devices with no hardware behind them: what they would measure, computed."""
