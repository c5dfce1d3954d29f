"""Readings come in: formats to columns, checked, stored, with a verdict a row."""
