"""How cells are stored: what follows from the rest is left out, so that a quarter takes a few bytes and loses no bit.

A quarter of 15 values would else take more room than the 15 readings that it stands for. So a number that the
others tell, bit by bit, is stored as NaN, which it never is itself. An integral is stored as how far it is off from
what evenly spaced readings give, counted in floats that lie between the two, and a counter's rises as how far they
are off from the difference of its readings: mostly a small number.
"""

from collections.abc import Mapping
from dataclasses import fields

import numpy as np

from kilowatch.facility.quantities import Behaviour
from kilowatch.history.intervals import Cells
from kilowatch.history.model import Floats, Milliseconds

COLUMNS = tuple({"integral": "integral_off", "rises": "rises_off"}.get(f.name, f.name) for f in fields(Cells))
"""What is stored of a cell, in this order."""

_ALL_FOUR = 4
"""Readings of a cell which are all known by its first, second, last but one and last."""


@np.errstate(over="ignore", invalid="ignore")
def packed(cells: Cells, behaviour: Behaviour) -> dict[str, np.ndarray]:
    """The columns to store. What nobody asks a gauge's cells for is lost of those with more than four readings."""
    columns = {field.name: getattr(cells, field.name) for field in fields(cells)}
    if behaviour == "gauge":
        are_many = cells.count > _ALL_FOUR
        columns["second"] = np.where(are_many, cells.first, cells.second)
        columns["last_but_one"] = np.where(are_many, cells.last, cells.last_but_one)
    columns["total"] = np.where(np.isnan(cells.total), np.inf, cells.total)  # neither is a figure
    known = dict(columns)
    for name, told in _TOLD.items():
        columns[name] = _without(known[name], told(known))
    columns["integral_off"] = _bits(columns.pop("integral")) - _bits(_even_integral(known))
    columns["rises_off"] = _bits(columns.pop("rises")) - _bits(_plain_rises(known))
    if behaviour == "gauge":
        columns["rises_off"] = np.zeros(len(cells), np.int64)
    return {name: columns[name] for name in COLUMNS}


@np.errstate(over="ignore", invalid="ignore")
def unpacked(columns: Mapping[str, np.ndarray], behaviour: Behaviour) -> Cells:
    """The cells that were stored."""
    known = {name: columns[name] for name in COLUMNS if not name.endswith("_off")}
    for name in ("second", "last_but_one", "minimum", "maximum", "total"):
        known[name] = _completed(known[name], _TOLD[name](known))
    known["integral"] = (columns["integral_off"] + _bits(_even_integral(known))).view(np.float64)
    for name in ("positive", "negative"):
        known[name] = _completed(known[name], _TOLD[name](known))
    if behaviour == "gauge":
        known["rises"] = np.zeros(len(known["first"]))
    else:
        known["rises"] = (columns["rises_off"] + _bits(_plain_rises(known))).view(np.float64)
    return Cells(**known)


# ── what the others tell ─────────────────────────────────────────────────────────────────────────────────────────────


def _second(cells: Mapping[str, np.ndarray]) -> Floats:
    return np.where(cells["count"] == 2, cells["last"], cells["first"])


def _last_but_one(cells: Mapping[str, np.ndarray]) -> Floats:
    at_most_two = np.where(cells["count"] == 2, cells["first"], cells["last"])
    return np.where(cells["count"] == 3, cells["second"], at_most_two)


def _minimum(cells: Mapping[str, np.ndarray]) -> Floats:
    told: Floats = np.minimum.reduce([cells[name] for name in ("first", "second", "last_but_one", "last")])
    return told


def _maximum(cells: Mapping[str, np.ndarray]) -> Floats:
    told: Floats = np.maximum.reduce([cells[name] for name in ("first", "second", "last_but_one", "last")])
    return told


def _total(cells: Mapping[str, np.ndarray]) -> Floats:
    """Right for four readings and less."""
    count, total = cells["count"], cells["first"]
    for number, name in ((3, "second"), (4, "last_but_one"), (2, "last")):
        total = np.where(count >= number, total + cells[name], total)
    return total


def _positive(cells: Mapping[str, np.ndarray]) -> Floats:
    return np.where(cells["minimum"] >= 0, cells["integral"], 0.0) + 0.0


def _negative(cells: Mapping[str, np.ndarray]) -> Floats:
    return np.where(cells["maximum"] <= 0, -cells["integral"], 0.0) + 0.0


def _even_integral(cells: Mapping[str, np.ndarray]) -> Floats:
    spans = cells["held_ms"] / np.maximum(cells["count"] - 1, 1)
    told: Floats = (cells["total"] - cells["last"]) * spans
    return told


def _plain_rises(cells: Mapping[str, np.ndarray]) -> Floats:
    told: Floats = cells["last_but_one"] - cells["first"]
    return told


_TOLD = {
    "second": _second,
    "last_but_one": _last_but_one,
    "minimum": _minimum,
    "maximum": _maximum,
    "total": _total,
    "positive": _positive,
    "negative": _negative,
}


def _without(values: Floats, told: Floats) -> Floats:
    return np.where(_bits(values) == _bits(told), np.nan, values)


def _completed(stored: Floats, told: Floats) -> Floats:
    return np.where(np.isnan(stored), told, stored)


def _bits(values: Floats) -> Milliseconds:
    """As whole numbers: floats that follow each other are such that do."""
    return np.ascontiguousarray(values).view(np.int64)
