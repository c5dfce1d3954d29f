"""Units of measure: which fit a quantity, and how to convert one to another (by pint)."""

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pint

MAX_UNIT_LENGTH = 30


@dataclass(frozen=True, slots=True)
class Conversion:
    """`target = source * scale + offset`; the offset is there for temperatures alone."""

    scale: float = 1.0
    offset: float = 0.0


@lru_cache(maxsize=1)
def _registry() -> pint.UnitRegistry[float]:
    registry: pint.UnitRegistry[float] = pint.UnitRegistry(autoconvert_offset_to_baseunit=True, cache_folder=None)
    registry.define("volt_ampere_reactive = volt * ampere = var")
    # `W/m2` and `m3` are how loggers spell `W/m**2` and `m**3`.
    registry.preprocessors.append(lambda text: re.sub(r"\bm([23])\b", r"m**\1", text))
    return registry


_NAME = r"(?:%|[°Δ]{0,2}[^\W\d_²³][^\W²³]*)"
_POWER = r"(?: ?(?:\*\*|\^) ?-?[0-9]|[²³])"
# Names, each with a power of one digit: a tower such as `m**9**9**9` would be computed for hours before it is refused.
_SPELLING = re.compile(rf"(?:1 ?/ ?)?{_NAME}{_POWER}?(?:(?: ?[*/·] ?| ){_NAME}{_POWER}?)*")


@lru_cache(maxsize=1024)
def _parse(unit: str) -> pint.Unit | None:
    if len(unit) > MAX_UNIT_LENGTH or not _SPELLING.fullmatch(unit):
        return None
    try:
        return _registry().parse_units(unit)
    # pint lets the errors of its tokenizer, evaluator and arithmetic through for what is no unit
    except (pint.errors.PintError, ValueError, TypeError, AttributeError, ArithmeticError, LookupError, AssertionError):
        return None


def is_unit(unit: str) -> bool:
    return _parse(unit) is not None


def compatible(unit: str, other: str) -> bool:
    """Whether both are known units, and a value in one can be told in the other."""
    return _affine(unit, other) is not None


def same_but_for_prefix(unit: str, other: str) -> bool:
    """Whether one is the other, or it with another prefix: kW and W, but not kW and kvar, which have one dimension."""
    left, right = _parse(unit), _parse(other)
    return left is not None and right is not None and _without_prefixes(left) == _without_prefixes(right)


def _without_prefixes(unit: pint.Unit) -> dict[str, object]:
    names = _registry().parse_unit_name
    return {names(name)[0][1]: power for name, power in unit._units.items()}


def conversion(source: str, target: str) -> Conversion:
    """How to get from one unit to a compatible other. Raises `ValueError` if they are not compatible."""
    found = _affine(source, target)
    if found is None:
        raise ValueError(f"{source!r} can't be converted to {target!r}")
    return found


@lru_cache(maxsize=1024)
def _affine(source: str, target: str) -> Conversion | None:
    """`None` for units of other dimensions, and where the way from one to the other is no straight line (decibels)."""
    left, right = _parse(source), _parse(target)
    if left is None or right is None or left.dimensionality != right.dimensionality:
        return None
    quantity = _registry().Quantity
    try:
        # pint takes a radian for 1, so that 50 Hz would be 477 rpm
        if _has_angle(left) != _has_angle(right):
            return None
        with np.errstate(all="ignore"):  # the logarithm of 0
            zero, one, two = (float(quantity(x, left).to(right).magnitude) for x in (0.0, 1.0, 2.0))
    except (pint.errors.PintError, ValueError, ArithmeticError):
        return None
    if not math.isfinite(two) or not math.isclose(two - one, one - zero, rel_tol=1e-9) or one == zero:
        return None
    if source == target:
        return Conversion()
    if zero == 0:
        return Conversion(scale=one)
    # Rounded to 12 digits: pint's own sums of offsets leave noise such as 33.79999999999993.
    return Conversion(scale=float(f"{one - zero:.12g}"), offset=float(f"{zero:.12g}"))


def _has_angle(unit: pint.Unit) -> bool:
    return "radian" in _registry().get_base_units(unit)[1]._units
