"""The catalogue: sites, their devices, and the metrics that devices report."""
