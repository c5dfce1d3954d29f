"""The demo portfolio: a real house with ten days of measurements, and two more sites, so that rights divide."""
