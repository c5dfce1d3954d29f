"""Kilowatch: an energy management back-end."""

from importlib.metadata import version

__version__ = version("kilowatch")
