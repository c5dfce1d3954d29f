"""The dashboard and the alerts that are shipped ask for nothing that is not there."""

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.process_collector import ProcessCollector

from kilowatch.kit import metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "kilowatch.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
PROMETHEUS: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]

_HISTOGRAM = ("_bucket", "_sum", "_count")
_OF_PROMETHEUS = {"up"}


def exported() -> dict[str, set[str]]:
    """The labels of each series that the application exports, by its name."""
    names: dict[str, set[str]] = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase) and not metric._labelvalues:
            name, labels = metric._name, set(metric._labelnames)
            if metric._type == "histogram":
                names |= {name + suffix: labels | ({"le"} if suffix == "_bucket" else set()) for suffix in _HISTOGRAM}
            else:
                names[f"{name}_total" if metric._type == "counter" else name] = labels
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return names | {sample.name: set() for family in registry.collect() for sample in family.samples}


EXPORTED = exported()


def expressions() -> list[tuple[str, str]]:
    """What panels and alerts ask for, with the name of each."""
    of_panels = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
    return of_panels + [(rule["alert"], rule["expr"]) for rule in RULES]


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The names that an expression asks for, with the labels that it picks them by."""
    without_texts = re.sub(r'"[^"]*"', '""', expression)
    for name, _, labels in re.findall(r"\b((?:kilowatch|process|up)\w*)\s*(\{([^}]*)\})?", without_texts):
        yield name, {part.split("=")[0].rstrip("!").strip() for part in labels.split(",") if part.strip()}


class TestExpressions:
    @pytest.mark.parametrize(("where", "expression"), expressions())
    def test_ask_for_what_is_exported(self, where: str, expression: str) -> None:
        asked = list(selectors(expression))
        assert asked, where
        for name, labels in asked:
            assert name in EXPORTED or name in _OF_PROMETHEUS, f"{where}: {name}"
            assert labels <= EXPORTED.get(name, set()) | {"instance", "job"}, f"{where}: {name}{labels}"

    @pytest.mark.parametrize(("where", "expression"), expressions())
    def test_group_by_labels_that_are_there(self, where: str, expression: str) -> None:
        labels = {label for name, _ in selectors(expression) for label in EXPORTED.get(name, set())}
        for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
            assert {label.strip() for label in grouped.split(",")} <= labels | {"instance", "job"}, where

    @pytest.mark.parametrize(("where", "expression"), expressions())
    def test_take_rates_of_counters_alone(self, where: str, expression: str) -> None:
        rates = r"\b(?:rate|increase)\((\w+)"
        counters = [name for name in re.findall(rates, expression) if not name.startswith("process_cpu")]
        assert all(name.endswith(("_total", *_HISTOGRAM)) for name in counters), where
        bare = [name for name, _ in selectors(re.sub(rates, "", expression))]
        assert not [name for name in bare if name.endswith(("_total", *_HISTOGRAM))], where

    def test_show_all_that_is_exported(self) -> None:
        shown = {name for _, expression in expressions() for name, _ in selectors(expression)}
        stems = {re.sub("(_bucket|_sum|_count)$", "", name) for name in shown}
        ours = {re.sub("(_bucket|_sum|_count)$", "", name) for name in EXPORTED if name.startswith("kilowatch")}
        assert ours - stems == set()

    def test_please_promtool(self, tmp_path: Path) -> None:
        promtool = shutil.which("promtool") or os.environ.get("KILOWATCH_TEST_PROMTOOL")
        if promtool is None:
            pytest.skip("there is no promtool (Debian's package `prometheus`)")
        rules = [
            {"record": f"panel:{number}", "expr": expr.replace("$__rate_interval", "5m").replace("$instance", ".*")}
            for number, (_, expr) in enumerate(expressions())
        ]
        recorded = tmp_path / "panels.yml"
        recorded.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
        prometheus = DEPLOY / "prometheus"
        for check in (
            ("check", "rules", str(recorded)),
            ("check", "rules", str(prometheus / "alerts.yml")),
            ("check", "config", str(prometheus / "prometheus.yml")),
            ("test", "rules", str(Path(__file__).parent / "alerts.test.yml")),
        ):
            done = subprocess.run([promtool, *check], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr


class TestDashboard:
    def test_has_a_title_a_text_and_a_unit_in_each_panel(self) -> None:
        for panel in PANELS:
            assert panel["title"] and panel["description"].endswith("."), panel["id"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]

    def test_leaves_the_data_source_and_the_instance_to_whoever_looks(self) -> None:
        assert DASHBOARD["schemaVersion"] >= 39
        names = {variable["name"]: variable["type"] for variable in DASHBOARD["templating"]["list"]}
        assert names == {"datasource": "datasource", "instance": "query"}
        for panel in PANELS:
            for part in (panel, *panel["targets"]):
                assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]

    def test_has_no_panel_over_another(self) -> None:
        assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
        assert len({panel["title"] for panel in PANELS}) == len(PANELS)
        places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
        assert all(place["x"] + place["w"] <= 24 for place in places)
        for one, other in itertools.combinations(places, 2):
            beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert beside or below, (one, other)


class TestAlerts:
    def test_say_what_is_wrong_and_what_to_look_at(self) -> None:
        for rule in RULES:
            assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
            assert rule["annotations"]["summary"] and rule["annotations"]["description"].endswith("."), rule["alert"]
            assert rule["for"], rule["alert"]

    def test_are_read_by_prometheus_from_beside_its_configuration(self) -> None:
        assert PROMETHEUS["rule_files"] == ["alerts.yml"]
        (job,) = PROMETHEUS["scrape_configs"]
        assert job["job_name"] == "kilowatch"

    def test_are_told_of_in_the_documentation(self) -> None:
        text = (DEPLOY.parent / "docs" / "observability.md").read_text()
        assert [rule["alert"] for rule in RULES if f"`{rule['alert']}`" not in text] == []
        assert [name for name in EXPORTED if name.startswith("kilowatch") and not _documented(name, text)] == []


def _documented(name: str, text: str) -> bool:
    return f"`{re.sub('(_bucket|_sum|_count)$', '', name)}" in text or f"`{name}" in text
