"""The dashboard and the alerts ask for metrics, labels and log lines that serving has."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import promql_parser
import pytest
import yaml
from jsonschema import Draft202012Validator

from adapterdistill import errors
from adapterdistill.errors import AdapterDistillError
from serve.engine.residents import PagingCounts
from serve.metrics import Metrics
from tests.unit.deployment.manifests import CLUSTER, ROOT

DASHBOARD = json.loads((CLUSTER / "grafana" / "serving.json").read_text("utf-8"))
ALERTS = yaml.safe_load((CLUSTER / "prometheus" / "alerts.yaml").read_text("utf-8"))
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
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


def series() -> dict[str, set[str]]:
    """What a query may name, each with its family's name."""
    suffixes = {
        "counter": ["_total"],
        "histogram": ["_bucket", "_sum", "_count"],
        "gauge": [""],
    }
    families = list(Metrics().registry.collect())
    return {f.name: {f.name + suffix for suffix in suffixes[f.type]} for f in families}


def named(text: str) -> set[str]:
    return set(re.findall(r"\badapterdistill_\w+", text))


def asked() -> Iterator[str]:
    """Every query of the dashboard."""
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_the_dashboard_shows_every_metric_and_asks_only_for_those() -> None:
    known = series()
    found = named(" ".join(asked()))
    assert found <= set().union(*known.values())
    assert {family for family, names in known.items() if names & found} == known.keys()
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.parametrize("query", [*asked(), *(rule["expr"] for rule in RULES)])
def test_a_query_is_prometheus_s_and_takes_no_instant_values(query: str) -> None:
    """Over a proxy a replica is seen now and then."""
    promql_parser.parse(query)
    assert query.count("adapterdistill_") == len(re.findall(r"\[(?:5|15)m\]", query))


def test_the_alerts_are_rules_with_a_severity_and_a_runbook() -> None:
    Draft202012Validator(RULE_FILE).validate(ALERTS)
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["annotations"]["runbook"].endswith(".")


def values_asked(rule: dict[str, Any], label: str) -> set[str]:
    found = re.findall(rf'{label}=~?"([^"]+)"', rule["expr"])
    return {value for values in found for value in values.split("|")}


def test_no_two_alerts_have_one_condition() -> None:
    """Windows, thresholds and white space apart: both would always fire together."""
    conditions = [
        re.sub(r"\[\w+\]|[<>=!]=? *[\d.]+$|\s", "", rule["expr"].strip()) for rule in RULES
    ]
    assert len(set(conditions)) == len(conditions)


def test_alerts_name_only_metrics_labels_and_alerts_that_there_are() -> None:
    known = set().union(*series().values()) | series().keys()
    alerts = {rule["alert"] for rule in RULES}
    reasons = {
        one.reason
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, AdapterDistillError)
    }
    events = {field.name for field in fields(PagingCounts)}
    for rule in RULES:
        told = " ".join(rule["annotations"].values())
        assert named(rule["expr"] + told) <= known
        assert set(re.findall(r"\bAdapterDistill\w+", told)) <= alerts
        assert set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", told)) <= reasons
        assert values_asked(rule, "outcome") <= reasons
        assert values_asked(rule, "event") <= events
        assert values_asked(rule, "state") <= {"live", "withdrawn"}


def test_what_a_runbook_looks_for_in_the_log_is_written_there() -> None:
    code = "".join(path.read_text("utf-8") for path in (ROOT / "serve").glob("*.py"))
    for rule in RULES:
        for quoted in re.findall(r'"([^"]+)"', rule["annotations"]["runbook"]):
            for part in quoted.split(" ... "):
                assert part in code, f"{rule['alert']}: no log line has {part!r}"
