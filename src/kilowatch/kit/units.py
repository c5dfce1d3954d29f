"""Units of measure: which fit a quantity, and how to convert one to another (by pint)."""

import re
from dataclasses import dataclass
from functools import lru_cache

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
    """Whether both are known units of the same dimension."""
    left, right = _parse(unit), _parse(other)
    return left is not None and right is not None and bool(left.dimensionality == right.dimensionality)


@lru_cache(maxsize=1024)
def conversion(source: str, target: str) -> Conversion:
    """How to get from one unit to a compatible other. Raises `ValueError` if they are not compatible."""
    if source == target:
        return Conversion()
    if not compatible(source, target):
        raise ValueError(f"{source!r} can't be converted to {target!r}")
    quantity = _registry().Quantity
    zero = float(quantity(0.0, _parse(source)).to(_parse(target)).magnitude)
    one = float(quantity(1.0, _parse(source)).to(_parse(target)).magnitude)
    if zero == 0:
        return Conversion(scale=one)
    # Rounded to 12 digits: pint's own sums of offsets leave noise such as 33.79999999999993.
    return Conversion(scale=float(f"{one - zero:.12g}"), offset=float(f"{zero:.12g}"))
