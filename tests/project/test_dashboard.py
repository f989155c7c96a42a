"""The dashboard shows what is measured: every metric is on it, and every name on it is a metric."""

import itertools
import json
import re
from typing import Any

import pytest
from support.paths import ROOT

from pipeline.monitor.metrics import METRICS
from pipeline.monitor.stages import IDLE

FILE = ROOT / "jobs" / "grafana" / "latentmill.json"
GRID_WIDTH = 24
OF_RAY = {"NodeAddress"}  # labels that Ray adds
EXPORTED = {f"ray_{metric.name}": metric for metric in METRICS}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(FILE.read_text())
    return values


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", text))


def test_it_has_what_grafana_asks_of_a_dashboard(dashboard: dict[str, Any]) -> None:
    assert (dashboard["uid"], dashboard["title"]) == ("latentmill", "Latentmill")
    assert dashboard["schemaVersion"] >= 36
    assert "id" not in dashboard, "an id belongs to one Grafana, and another would refuse it"
    for panel in dashboard["panels"]:
        assert panel["type"] == "timeseries"
        assert panel["title"]
        assert panel["description"]
        assert panel["targets"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        assert all(target["legendFormat"] for target in panel["targets"])


def test_panels_have_ids_and_titles_of_their_own(dashboard: dict[str, Any]) -> None:
    for key in ("id", "title"):
        values = [panel[key] for panel in dashboard["panels"]]
        assert len(set(values)) == len(values)


def test_panels_lie_beside_each_other(dashboard: dict[str, Any]) -> None:
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(at["x"] >= 0 and at["x"] + at["w"] <= GRID_WIDTH and at["h"] > 0 for at in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or apart


def test_source_and_run_are_chosen_above_the_panels(dashboard: dict[str, Any]) -> None:
    source, run = dashboard["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert (run["name"], run["type"]) == ("run", "query")
    assert names_in(run["query"]["query"]) <= EXPORTED.keys()
    for panel in dashboard["panels"]:
        for holder in (panel, *panel["targets"]):
            assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_every_metric_is_shown_and_every_name_is_a_metric(dashboard: dict[str, Any]) -> None:
    assert set().union(*map(names_in, expressions(dashboard))) == EXPORTED.keys()


def test_every_metric_is_of_the_chosen_run_and_counters_are_shown_as_rates(dashboard: dict[str, Any]) -> None:
    for expression in expressions(dashboard):
        uses = re.findall(r"(rate\(|increase\(|)(ray_\w+)\{([^}]*)\}", expression)
        assert {name for _, name, _ in uses} == names_in(expression), "a metric without a selector mixes runs"
        for function, name, selector in uses:
            assert selector.startswith('run=~"$run"')
            assert bool(function) is (EXPORTED[name].kind == "counter"), name


def test_labels_are_those_that_the_metric_has(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            known = {"run", *OF_RAY} | {tag for name in names_in(target["expr"]) for tag in EXPORTED[name].tags}
            grouped = {label for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(", ")}
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown == grouped <= known


def test_the_busy_fraction_is_that_of_the_summary(dashboard: dict[str, Any]) -> None:
    (panel,) = (panel for panel in dashboard["panels"] if panel["title"] == "Encoder busy")
    above, below = panel["targets"][0]["expr"].split(" / ")
    assert re.findall(r'stage=~?"([^"]*)"', above) == ["encode"]
    assert re.findall(r'stage=~?"([^"]*)"', below) == [f"encode|{IDLE}"]


def test_it_is_installed_with_the_commands() -> None:
    (line,) = re.findall(r"^jobs = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert any(FILE.match(f"jobs/{pattern}") for pattern in json.loads(line))
