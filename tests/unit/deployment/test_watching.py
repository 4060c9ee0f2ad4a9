"""Dashboards and alerts ask for metrics, labels and log lines that serving and registry have."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import promql_parser
import pytest
import yaml
from jsonschema import Draft202012Validator
from prometheus_client import CollectorRegistry

from adapterdistill import errors
from adapterdistill.errors import AdapterDistillError
from adapterdistill.registry.index.schema import State
from adapterdistill.registry.server.metrics import Metrics as RegistryMetrics
from adapterdistill.registry.v1 import registry_pb2
from adapterdistill.serve.engine.residents import PagingCounts
from adapterdistill.serve.metrics import Metrics as ServingMetrics
from tests.unit.deployment.manifests import CLUSTER, ROOT

TEXT = {"type": "string", "minLength": 1}
RULE_FILE = {
    "type": "object",
    "required": ["groups"],
    "additionalProperties": False,
    "properties": {
        "groups": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "rules"],
                "additionalProperties": False,
                "properties": {
                    "name": TEXT,
                    "rules": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["alert", "expr", "for", "labels", "annotations"],
                            "additionalProperties": False,
                            "properties": {
                                "alert": {"pattern": "^AdapterDistill[A-Za-z]+$"},
                                "expr": TEXT,
                                "for": {"pattern": "^[0-9]+[smh]$"},
                                "labels": {
                                    "required": ["severity"],
                                    "properties": {"severity": {"enum": ["page", "ticket"]}},
                                    "additionalProperties": False,
                                },
                                "annotations": {
                                    "required": ["summary", "runbook"],
                                    "properties": {"summary": TEXT, "runbook": TEXT},
                                    "additionalProperties": False,
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}


@dataclass(frozen=True)
class Watched:
    """What is watched: its dashboard, its rules, its metrics, and the code that writes its log."""

    dashboard: dict[str, Any]
    alerts: dict[str, Any]
    metrics: CollectorRegistry
    code: str
    values: dict[str, set[str]]
    """What a rule may ask for, by label."""

    def series(self) -> dict[str, set[str]]:
        """What a query may name, each with its family's name."""
        suffixes = {
            "counter": ["_total"],
            "histogram": ["_bucket", "_sum", "_count"],
            "gauge": [""],
        }
        families = list(self.metrics.collect())
        return {f.name: {f.name + suffix for suffix in suffixes[f.type]} for f in families}

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.alerts["groups"] for rule in group["rules"]]

    def asked(self) -> Iterator[str]:
        """Every query of the dashboard."""
        for panel in self.dashboard["panels"]:
            yield from (target["expr"] for target in panel["targets"])


def watched(dashboard: str, alerts: str, **known: Any) -> Watched:
    return Watched(
        json.loads((CLUSTER / "grafana" / dashboard).read_text("utf-8")),
        yaml.safe_load((CLUSTER / "prometheus" / alerts).read_text("utf-8")),
        **known,
    )


def code_of(*folders: Path) -> str:
    return "".join(path.read_text("utf-8") for folder in folders for path in folder.glob("*.py"))


REASONS = {
    one.reason
    for one in vars(errors).values()
    if isinstance(one, type) and issubclass(one, AdapterDistillError)
}
SERVICE = registry_pb2.DESCRIPTOR.services_by_name["RegistryService"]
SERVER = ROOT / "adapterdistill" / "registry" / "server"
WATCHED = {
    "serving": watched(
        "serving.json",
        "alerts.yaml",
        metrics=ServingMetrics().registry,
        code=code_of(ROOT / "serve"),
        values={
            "outcome": REASONS,
            "event": {field.name for field in fields(PagingCounts)},
            "state": {"live", "withdrawn"},
        },
    ),
    "registry": watched(
        "registry.json",
        "registry-alerts.yaml",
        metrics=RegistryMetrics(Path("no registry")).registry,
        code=code_of(SERVER),
        values={
            "outcome": REASONS,
            "call": {one.name for one in SERVICE.methods},
            "state": set(get_args(State)),
        },
    ),
}
ALL = pytest.mark.parametrize("one", WATCHED.values(), ids=WATCHED)


def named(text: str) -> set[str]:
    return set(re.findall(r"\badapterdistill_\w+", text))


@ALL
def test_the_dashboard_shows_every_metric_and_asks_only_for_those(one: Watched) -> None:
    known = one.series()
    found = named(" ".join(one.asked()))
    assert found <= set().union(*known.values())
    assert {family for family, names in known.items() if names & found} == known.keys()
    panels = one.dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_dashboards_and_alerts_have_names_of_their_own() -> None:
    rules = [rule["alert"] for one in WATCHED.values() for rule in one.rules()]
    assert len({*rules}) == len(rules)
    assert len({one.dashboard["uid"] for one in WATCHED.values()}) == len(WATCHED)
    files = {path.name for path in (CLUSTER / "prometheus").iterdir()}
    assert files == {"alerts.yaml", "registry-alerts.yaml"}


@pytest.mark.parametrize(
    "query",
    [
        query
        for one in WATCHED.values()
        for query in (*one.asked(), *(rule["expr"] for rule in one.rules()))
    ],
)
def test_a_query_is_prometheus_s_and_takes_no_instant_values(query: str) -> None:
    """Over a proxy a replica is seen now and then."""
    promql_parser.parse(query)
    assert query.count("adapterdistill_") == len(re.findall(r"\[(?:5|15)m\]", query))


@ALL
def test_the_alerts_are_rules_with_a_severity_and_a_runbook(one: Watched) -> None:
    Draft202012Validator(RULE_FILE).validate(one.alerts)
    for rule in one.rules():
        assert rule["annotations"]["runbook"].endswith(".")


def values_asked(rule: dict[str, Any], label: str) -> set[str]:
    found = re.findall(rf'{label}[=!]~?"([^"]+)"', rule["expr"])
    return {value for values in found for value in values.split("|")}


@ALL
def test_no_two_alerts_have_one_condition(one: Watched) -> None:
    """Windows, thresholds and white space apart: both would always fire together."""
    conditions = [
        re.sub(r"\[\w+\]|[<>=!]=? *[\d.e]+$|\s", "", rule["expr"].strip()) for rule in one.rules()
    ]
    assert len(set(conditions)) == len(conditions)


@ALL
def test_alerts_name_only_metrics_labels_and_alerts_that_there_are(one: Watched) -> None:
    known = set().union(*one.series().values()) | one.series().keys()
    alerts = {rule["alert"] for rule in one.rules()}
    for rule in one.rules():
        told = " ".join(rule["annotations"].values())
        assert named(rule["expr"] + told) <= known
        assert set(re.findall(r"\bAdapterDistill\w+", told)) <= alerts
        assert set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", told)) <= REASONS
        for label in ("outcome", "event", "state", "call"):
            assert values_asked(rule, label) <= one.values.get(label, set())


@ALL
def test_what_a_runbook_looks_for_in_the_log_is_written_there(one: Watched) -> None:
    for rule in one.rules():
        for quoted in re.findall(r'"([^"]+)"', rule["annotations"]["runbook"]):
            for part in quoted.split(" ... "):
                assert part in one.code, f"{rule['alert']}: no log line has {part!r}"
