"""Forms made from the JSON Schema of what a request may say: labels, units, ranges, and what was wrong."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from kilowatch.errors import Conflict, Fault, Invalid, KilowatchError
from kilowatch.kit.text import name_from
from kilowatch.pages.words import N_, Language

Control = Literal["text", "email", "password", "number", "date", "select", "checkbox", "textarea"]
_LONG_TEXT = 1000

LABELS = {
    "name": N_("Name"),
    "slug": N_("Short name in addresses"),
    "manufacturer": N_("Manufacturer"),
    "model": N_("Model"),
    "serial_number": N_("Serial number"),
    "commissioned_on": N_("Commissioned on"),
    "source": N_("Readings"),
    "interval_s": N_("Interval if simulated"),
    "create_metrics": N_("Make metrics of readings that arrive for unknown keys"),
    "properties": N_("Properties"),
    "capacity_kwh": N_("Capacity"),
    "max_charge_kw": N_("Largest charging power"),
    "max_discharge_kw": N_("Largest discharging power"),
    "round_trip_efficiency": N_("Round-trip efficiency (0 to 1)"),
    "rated_kw": N_("Rated power"),
    "efficiency": N_("Efficiency (0 to 1)"),
    "peak_kw": N_("Peak power"),
    "tilt_deg": N_("Tilt"),
    "azimuth_deg": N_("Azimuth"),
    "hub_height_m": N_("Hub height"),
    "cut_in_ms": N_("Cut-in wind speed"),
    "rated_ms": N_("Rated wind speed"),
    "cut_out_ms": N_("Cut-out wind speed"),
    "connection_kw": N_("Grid connection"),
    "phases": N_("Phases"),
    "profile": N_("Load profile"),
    "annual_kwh": N_("Consumption a year"),
    "connectors": N_("Connectors"),
    "coefficient_of_performance": N_("Coefficient of performance"),
    "height_m": N_("Height over ground"),
    "key": N_("Key"),
    "quantity": N_("Quantity"),
    "unit": N_("Unit"),
    "behaviour": N_("Behaviour"),
    "max_gap_s": N_("A value is believed for"),
    "valid_min": N_("Smallest valid value"),
    "valid_max": N_("Largest valid value"),
    "scopes": N_("What it may do"),
    "site_id": N_("Site"),
    "email": N_("Email"),
    "password": N_("Password"),
    "is_admin": N_("Administrator: may do everything, everywhere"),
    "timezone": N_("Time zone"),
    "latitude": N_("Latitude"),
    "longitude": N_("Longitude"),
    "country": N_("Country"),
    "currency": N_("Currency"),
    "notes": N_("Notes"),
    "raw_days": N_("Days that raw readings are kept"),
}
HINTS = {
    "slug": N_("Small letters, digits and hyphens; made from the name if left empty."),
    "serial_number": N_("No two devices of a site have the same."),
    "tilt_deg": N_("0 lies flat, 90 stands upright."),
    "azimuth_deg": N_("0 north, 90 east, 180 south, 270 west."),
    "round_trip_efficiency": N_("Energy out for energy in, over a full cycle."),
    "capacity_kwh": N_("Usable energy, from an empty battery to a full one."),
    "connection_kw": N_("Largest power of the grid connection."),
    "peak_kw": N_("Power under standard test conditions."),
    "key": N_("Small letters, digits and underscores; gateways send readings by it."),
    "unit": N_("The quantity's usual one if left empty."),
    "max_gap_s": N_("After so long without a reading there is a gap; empty for counters."),
    "valid_min": N_("Readings below are refused."),
    "valid_max": N_("Readings above are refused."),
    "properties": N_("One a line, as `name: value`."),
    "latitude": N_("Degrees, positive in the north; where simulated sun shines."),
    "longitude": N_("Degrees, positive in the east."),
    "country": N_("Two capital letters, such as DE."),
    "currency": N_("Three capital letters, such as EUR."),
    "raw_days": N_("Older ones are folded into quarters of an hour, for good. For ever if left empty."),
}
WORDS = {
    "reported": N_("reported by the device"),
    "simulated": N_("simulated"),
    "household": N_("household"),
    "commercial": N_("commercial"),
    "gauge": N_("gauge (a value that goes up and down)"),
    "counter": N_("counter (a sum that only grows)"),
    "read": N_("look at everything"),
    "write": N_("change devices and metrics"),
    "ingest": N_("send readings"),
}
QUANTITY_NAMES = {
    "power": N_("Power"),
    "reactive_power": N_("Reactive power"),
    "apparent_power": N_("Apparent power"),
    "power_factor": N_("Power factor"),
    "energy": N_("Energy"),
    "state_of_charge": N_("State of charge"),
    "state_of_health": N_("State of health"),
    "voltage": N_("Voltage"),
    "current": N_("Current"),
    "frequency": N_("Frequency"),
    "irradiance": N_("Irradiance"),
    "temperature": N_("Temperature"),
    "humidity": N_("Humidity"),
    "pressure": N_("Pressure"),
    "wind_speed": N_("Wind speed"),
    "wind_direction": N_("Wind direction"),
    "rotational_speed": N_("Rotational speed"),
    "angle": N_("Angle"),
    "volume": N_("Volume"),
    "volume_flow": N_("Volume flow"),
    "mass": N_("Mass"),
    "duration": N_("Duration"),
    "dimensionless": N_("Number without a unit"),
    "generic": N_("Something else"),
}
KIND_NAMES = {
    "battery": N_("Battery"),
    "inverter": N_("Inverter"),
    "pv_array": N_("PV array"),
    "wind_turbine": N_("Wind turbine"),
    "grid_meter": N_("Grid meter"),
    "load_meter": N_("Load meter"),
    "ev_charger": N_("EV charger"),
    "heat_pump": N_("Heat pump"),
    "weather_station": N_("Weather station"),
    "generic": N_("Other device"),
}
METRIC_NAMES = (
    N_("Power, positive on discharge"),
    N_("Power, positive on import"),
    N_("Output power"),
    N_("Electrical power"),
    N_("Energy charged"),
    N_("Energy discharged"),
    N_("Energy imported"),
    N_("Energy exported"),
    N_("Flow temperature"),
    N_("Global horizontal irradiance"),
    N_("Air temperature"),
)
"""What the usual metrics are called that are not called as their quantities: here only so that it is translated."""

_UNITS = {"kwh": "kWh", "kw": "kW", "deg": "°", "ms": "m/s", "m": "m", "s": "s"}
_UNITS_OF = {"latitude": "°", "longitude": "°"}


# ── fields ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a form. Its name is the path of its value in the request's body: `properties/peak_kw`."""

    name: str
    label: str
    control: Control = "text"
    unit: str = ""
    hint: str = ""
    required: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)
    options: tuple[tuple[str, str], ...] = ()
    """Each choice's value, and what it is called before it is translated."""
    nullable: bool = False
    schema: Mapping[str, Any] = field(default_factory=dict)
    value: str = ""
    error: str = ""
    stored: str | None = None
    """What is stored, where that is not what the field was filled with: somebody else changed it."""

    @property
    def id(self) -> str:
        return "f-" + re.sub(r"[^a-z0-9]+", "-", self.name)

    def holding(self, value: object) -> "Field":
        """Filled with what is stored, or the default."""
        return replace(self, value=written(value))

    def read(self, text: str) -> Any:
        """The value that the text stands for, or the text itself if it stands for none: then its type is wrong."""
        if self.control == "checkbox":
            return text == "on"
        text = text.strip()
        if text == "":
            return None if self.nullable else ""
        if self.options:
            choices: list[Any] = self.schema.get("enum", [])
            return next((choice for choice in choices if str(choice) == text), text)
        if self.control == "number":
            return _number(text, self.schema.get("type") == "integer")
        return text.replace("\r\n", "\n")


def _number(text: str, is_whole: bool) -> float | int | str:
    plain = text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
    if not re.fullmatch(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d{1,3})?", plain, re.ASCII) or len(plain) > 40:
        return text
    return int(plain) if is_whole and re.fullmatch(r"[-+]?\d+", plain) else float(plain)


def written(value: object) -> str:
    """A stored value as a field holds it."""
    match value:
        case None | False:
            return ""
        case True:
            return "on"
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
    return str(value)


def fields_of(schema: Mapping[str, Any], names: Iterable[str] | None = None, *, prefix: str = "") -> list[Field]:
    """A field for each property of an object's JSON Schema (or for those named), with its default."""
    properties: Mapping[str, Mapping[str, Any]] = schema.get("properties", {})
    required = schema.get("required", ())
    return [
        _field(prefix, name, properties[name], required=name in required)
        for name in (properties if names is None else names)
    ]


def _field(prefix: str, name: str, schema: Mapping[str, Any], *, required: bool) -> Field:
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    kind: Mapping[str, Any] = kinds[0]
    nullable = "anyOf" in schema
    made = Field(
        prefix + name,
        LABELS.get(name, name_from(name)),
        hint=HINTS.get(name, ""),
        required=required,
        nullable=nullable,
        schema=kind,
        value=written(schema.get("default")),
    )
    if "enum" in kind:
        names = QUANTITY_NAMES | WORDS
        options = tuple((str(choice), names.get(str(choice), str(choice))) for choice in kind["enum"])
        if nullable:
            options = (("", N_("the usual")), *options)
        return replace(made, control="select", options=options, unit=_unit_in(name))
    match kind.get("type"):
        case "boolean":
            return replace(made, control="checkbox", required=False)
        case "number" | "integer":
            return replace(made, control="number", unit=_unit_in(name), attributes=_range(kind))
        case "string" if kind.get("format") == "date":
            return replace(made, control="date")
        case "string" if kind.get("maxLength", 0) > _LONG_TEXT:
            return replace(made, control="textarea")
    attributes = {"maxlength": str(kind["maxLength"])} if "maxLength" in kind else {}
    return replace(made, attributes=attributes)


def _unit_in(name: str) -> str:
    """The unit that a property's name ends in."""
    return _UNITS.get(name.rpartition("_")[2], "") if "_" in name else _UNITS_OF.get(name, "")


def _range(schema: Mapping[str, Any]) -> dict[str, str]:
    limits = {
        "min": schema.get("minimum", schema.get("exclusiveMinimum")),
        "max": schema.get("maximum", schema.get("exclusiveMaximum")),
    }
    # limits that are only there to keep out nonsense say nothing to anybody
    told = {name: written(float(limit)) for name, limit in limits.items() if limit is not None and abs(limit) < 1e9}
    return told | {"step": "1" if schema.get("type") == "integer" else "any"}


# ── forms ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Group:
    """Fields that belong together, below a heading."""

    legend: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Form:
    groups: tuple[Group, ...]
    errors: tuple[str, ...] = ()
    """What is wrong beside the fields."""

    @property
    def fields(self) -> list[Field]:
        return [field for group in self.groups for field in group.fields]

    @property
    def faulty(self) -> list[Field]:
        return [field for field in self.fields if field.error]

    def each(self, change: Callable[[Field], Field]) -> "Form":
        groups = tuple(Group(group.legend, tuple(map(change, group.fields))) for group in self.groups)
        return replace(self, groups=groups)

    def holding(self, values: Mapping[str, Any]) -> "Form":
        """Filled with what is stored, by the fields' names."""
        return self.each(lambda field: field.holding(values[field.name]) if field.name in values else field)

    def typed(self, sent: Mapping[str, str]) -> "Form":
        """Filled with what was sent, right or wrong."""
        return self.each(lambda field: replace(field, value=sent.get(field.name, "")))

    def read(self, sent: Mapping[str, str]) -> dict[str, Any]:
        """What was sent as values by the fields' names; a field that was not sent is not in it."""
        return {
            field.name: field.read(sent.get(field.name, ""))
            for field in self.fields
            if field.name in sent or field.control == "checkbox"
        }

    def wrong(self, error: KilowatchError, language: Language) -> "Form":
        """With what is wrong beside the field that it is about; what is about none of them is said on top."""
        faults: dict[str, str] = {}
        others: list[str] = []
        names = {field.name for field in self.fields}
        for fault in error.faults or (Fault("", error.message),):
            name = fault.pointer.strip("/")
            if name in names:
                faults.setdefault(name, translated(fault.detail, language))
            else:
                others.append(translated(fault.detail, language))
        made = self.each(lambda field: replace(field, error=faults.get(field.name, "")))
        return replace(made, errors=tuple(others))

    def beside(self, stored: Mapping[str, Any]) -> "Form":
        """With what is stored beside each field that holds something else."""

        def told(field: Field) -> Field:
            now = written(stored.get(field.name))
            return field if now == field.value.strip() else replace(field, stored=now)

        return self.each(told)


def changed(values: Mapping[str, Any], stored: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """Of what was sent that which is not stored already."""
    before = {field.name: field.read(field.value) for field in form.holding(stored).fields}
    return {name: value for name, value in values.items() if value != before[name]}


def status_of(error: KilowatchError) -> int:
    """Of the page that shows a form again, with what is wrong."""
    return 409 if isinstance(error, Conflict) else 422


def without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    """What was filled in: the rest has its defaults."""
    return {name: value for name, value in values.items() if value not in (None, "")}


def nested(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The values below a prefix, by what follows it."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values below no prefix."""
    return {name: value for name, value in values.items() if "/" not in name}


def checked(
    schema: type[BaseModel], values: dict[str, Any], *, properties: tuple[type[BaseModel], dict[str, Any]] | None = None
) -> Any:
    """The values by the schema that the API has for them.

    Args:
        properties: a kind's schema, and the properties, so that what is wrong in them is said at once with the rest.

    Raises:
        Invalid: naming each field that is wrong.
    """
    faults: list[Fault] = []
    said = _said(schema, values, "", faults)
    if properties is not None:
        _said(*properties, "/properties", faults)
    if faults:
        raise Invalid("; ".join(fault.detail for fault in faults[:3]), faults=tuple(faults))
    return said


def _said(schema: type[BaseModel], values: Any, place: str, faults: list[Fault]) -> BaseModel | None:
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            pointer = "/".join((place, *map(str, item["loc"])))
            faults.append(Fault(pointer, item["msg"].removeprefix("Value error, ")))
        return None


# ── properties of the owner's choice ─────────────────────────────────────────────────────────────────────────────────


def lines_of(properties: Mapping[str, Any]) -> str:
    """Properties as lines `name: value`; a text that would be read as something else stands in quotes."""
    lines = []
    for name, value in properties.items():
        is_plain_text = isinstance(value, str) and value.strip() == value and _scalar(value) == value
        lines.append(f"{name}: {value if is_plain_text else json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines)


def properties_in(lines: str) -> tuple[dict[str, Any], str | None]:
    """The properties that lines `name: value` say; and the first line that says none."""
    properties: dict[str, Any] = {}
    for line in lines.splitlines():
        name, colon, value = line.partition(":")
        if not line.strip():
            continue
        if not colon or not name.strip():
            return properties, line.strip()[:100]
        properties[name.strip()] = _scalar(value.strip())
    return properties, None


def _scalar(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, list | dict) else value


# ── what is wrong, in words ──────────────────────────────────────────────────────────────────────────────────────────

_PATTERNS = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"Input should be greater than or equal to (?P<limit>.+)", N_("Must be at least %(limit)s.")),
        (r"Input should be less than or equal to (?P<limit>.+)", N_("Must be at most %(limit)s.")),
        (r"Input should be greater than (?P<limit>.+)", N_("Must be more than %(limit)s.")),
        (r"Input should be less than (?P<limit>.+)", N_("Must be less than %(limit)s.")),
        (r"Input should be a valid integer.*", N_("Must be a whole number.")),
        (r"Input should be a (valid )?number.*|Input should be a finite number", N_("Must be a number.")),
        (r"Input should be a date.*|Input should be a valid date.*", N_("Must be a date, such as 2024-05-01.")),
        (r"String should have at least 1 character|Field required", N_("Must not be empty.")),
        (r"String should have at least (?P<limit>\d+) characters", N_("Needs at least %(limit)s characters.")),
        (r"String should have at most (?P<limit>\d+) characters?", N_("May have at most %(limit)s characters.")),
        (r"String should match pattern .*z0-9\]\+\(-.*", N_("Small letters, digits and single hyphens only.")),
        (r"String should match pattern .*a-z0-9_.*", N_("Small letters, digits and underscores only.")),
        (r"String should match pattern '\^\[\^@.*", N_("Must be an email address, such as ada@example.org.")),
        (r"String should match pattern '\^\[A-Z\]\{2\}\$'", N_("Two capital letters, such as DE.")),
        (r"String should match pattern '\^\[A-Z\]\{3\}\$'", N_("Three capital letters, such as EUR.")),
        (r"String should match pattern .*", N_("Has characters that are not allowed here.")),
        (r"Input should be (?P<choices>'.+|1 or 3|60, 300 or 900)", N_("Must be one of: %(choices)s.")),
        (r"is none of: .*", N_("Choose one of the list.")),
        (
            r"`(?P<unit>.+)` does not measure (?P<quantity>.+); `(?P<usual>.+)` does\.",
            N_("%(unit)s does not measure this quantity; %(usual)s does."),
        ),
        (
            r"The site has a device with the slug `(?P<slug>.+)` already\.",
            N_("The site has a device with the short name %(slug)s already."),
        ),
        (r"Not a cursor of this list; .*", N_("This address leads to no page of the list; begin at its start.")),
        (
            r"There is a site with the slug `(?P<slug>.+)` already\.",
            N_("There is a site with the short name %(slug)s already."),
        ),
        (r"(?P<zone>.+) is not an IANA time zone; one is .*", N_("%(zone)s is not a time zone; Europe/Berlin is one.")),
        (
            r"Input should be a text of up to 1000 printable characters, a finite number .*",
            N_("Must be a text of up to 1000 characters, a number, true, false or null."),
        ),
    )
)
_KNOWN = (
    N_("cut_in_ms, rated_ms and cut_out_ms must rise in this order"),
    N_("names of properties have 1 to 100 characters and no control characters"),
)
"""What schemas say that no pattern fits: here only so that it is translated. What services say is `said`."""


def translated(detail: str, language: Language) -> str:
    """What a service or a check says, in the language; in English where it says something that is not known here."""
    for pattern, text in _PATTERNS:
        found = pattern.fullmatch(detail)
        if found:
            return language.texts.gettext(text) % {k: v for k, v in found.groupdict().items() if v is not None}
    return language.said(detail)
