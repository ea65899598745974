"""What in deploy/ cannot run in a test is held against what it talks about: schemas, our metrics, our settings."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.balancers import DEPLOY, program
from twin_sio.config import GROUPS, Settings
from twin_sio.observability.durations import JobDurations
from twin_sio.runtime.metrics import WorkerMetrics
from twin_sio.runtime.serve import Service
from twin_sio.runtime.wiring import build_services

Json = dict[str, Any]
ALERTS = DEPLOY / "observability" / "alerts.yml"
OPERATIONS = DEPLOY.parent / "docs" / "operations.md"


def _rules() -> list[Json]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def _panels() -> list[Json]:
    panels: list[Json] = json.loads((DEPLOY / "observability" / "dashboard.json").read_text())["panels"]
    return panels


EXPRESSIONS = {
    **{rule["alert"]: rule["expr"] for rule in _rules()},
    **{f"{one['title']} {target['refId']}": target["expr"] for one in _panels() for target in one["targets"]},
}


@pytest.fixture(scope="module")
async def metrics(instance: Service, settings: Settings) -> set[str]:
    """Every name that a server or a worker exports."""
    async with build_services(settings) as parts:
        worker = await WorkerMetrics(parts, JobDurations()).render()
    text = (await instance.metrics.render() + worker).decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    names = {name for name, kind in types.items() if kind != "histogram"}
    return names | {f"{name}_{part}" for name in types.keys() - names for part in ("bucket", "sum", "count")}


@pytest.mark.parametrize("name", EXPRESSIONS)
async def test_dashboards_and_alerts_use_real_metrics(metrics: set[str], name: str) -> None:
    """Every expression of the dashboard and the alerts asks for a metric that is there."""
    asked = set(re.findall(r"\btwin_\w+", EXPRESSIONS[name]))
    assert asked
    assert asked <= metrics


async def test_the_dashboard_shows_every_metric(metrics: set[str]) -> None:
    shown = set(re.findall(r"\btwin_\w+", " ".join(EXPRESSIONS.values())))
    hidden = {
        one for one in metrics - shown if one.startswith("twin_") and not one.endswith(("_sum", "_count", "_created"))
    }
    assert hidden == set()


def test_prometheus_takes_the_alert_rules() -> None:
    done = subprocess.run([*program("promtool"), "check", "rules", str(ALERTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_runbook() -> None:
    headings = {line.split("`")[1] for line in OPERATIONS.read_text().splitlines() if line.startswith("### `")}
    assert {rule["annotations"]["runbook"] for rule in _rules()} <= headings


def _manifests() -> dict[str, Json]:
    parts = yaml.safe_load_all((DEPLOY / "kubernetes" / "twin-sio.yaml").read_text())
    return {f"{one['kind']} {one['metadata']['name']}": one for one in parts}


MANIFESTS = _manifests()


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_knows_every_field_of_a_manifest(name: str) -> None:
    kubernetes_validate.validate(MANIFESTS[name], kubernetes_validate.latest_version(), strict=True)


def test_a_misspelt_field_of_a_manifest_would_be_found() -> None:
    wrong = json.loads(json.dumps(MANIFESTS["Deployment twin-sio-web"]))
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def _variables() -> set[str]:
    """What the service's settings are called in the environment."""
    aliases = (field.validation_alias for group in GROUPS.values() for field in group.model_fields.values())
    return {str(name) for alias in aliases for name in getattr(alias, "choices", ())}


def test_a_pod_is_given_the_time_that_it_drains() -> None:
    given = MANIFESTS["ConfigMap twin-sio"]["data"]
    assert given.keys() <= _variables()
    pod = MANIFESTS["Deployment twin-sio-web"]["spec"]["template"]["spec"]
    (web,) = pod["containers"]
    before = int(web["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > before + int(given["TWIN_DRAIN_S"]) + 5
    probes = web["readinessProbe"]
    assert probes["httpGet"]["path"] == "/readyz"
    assert before > probes["periodSeconds"] * probes["failureThreshold"]


def test_what_the_manifests_select_is_what_they_make() -> None:
    for kind in ("web", "worker"):
        made = MANIFESTS[f"Deployment twin-sio-{kind}"]["spec"]
        assert made["selector"]["matchLabels"].items() <= made["template"]["metadata"]["labels"].items()
    web = MANIFESTS["Deployment twin-sio-web"]["spec"]["template"]["metadata"]["labels"]
    assert MANIFESTS["Service twin-sio"]["spec"]["selector"] == web
    assert MANIFESTS["PodDisruptionBudget twin-sio-web"]["spec"]["selector"]["matchLabels"] == web
    scaled = MANIFESTS["HorizontalPodAutoscaler twin-sio-web"]["spec"]
    assert f"{scaled['scaleTargetRef']['kind']} {scaled['scaleTargetRef']['name']}" in MANIFESTS
    assert scaled["metrics"][0]["pods"]["metric"]["name"] == "twin_connections"


def test_docker_compose_runs_what_it_says() -> None:
    compose = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())
    services = compose["services"]
    assert set(services) == {"mongodb", "redis", "web1", "web2", "web3", "worker1", "worker2", "haproxy"}
    for name, one in services.items():
        assert set(one.get("depends_on", ())) <= set(services), name
        if one["image"] == "twin-sio":
            assert set(one["environment"]) <= _variables(), name
            assert int(one["stop_grace_period"].removesuffix("s")) > (25 if name.startswith("web") else 10), name
            assert one["env_file"] == [{"path": "settings.env", "required": False}], name
            assert one["pull_policy"] == ("build" if "build" in one else "never"), name
    builds = [one["build"] for one in services.values() if "build" in one]
    assert len(builds) == 1, "a tag is built once"
    assert (DEPLOY / builds[0]["context"] / builds[0]["dockerfile"]).is_file()
    assert services["redis"]["tmpfs"] == ["/data"]
    common = services["web1"]["environment"]
    for name in ("CORS_ORIGINS", "JWT_JWKS_URL", "JWT_ISSUER", "JWT_AUDIENCE", "JWT_ALGORITHMS", "SCOPE_MAP"):
        assert common[f"TWIN_{name}"].startswith(f"${{TWIN_{name}:-"), name
    wanted = set(re.findall(r"\$\{(\w+)\}", (DEPLOY / "haproxy.cfg").read_text())) | set(
        re.findall(r"\"\$\{(\w+)\}\"", (DEPLOY / "haproxy.cfg").read_text())
    )
    assert set(services["haproxy"]["environment"]) == wanted
    for port in ("web1", "web2", "web3"):
        assert services["haproxy"]["environment"][port.upper()] == f"{port}:8000"
    for volume in services["haproxy"]["volumes"]:
        assert (DEPLOY / volume.split(":")[0]).is_file()


_DIRECTIVES = {
    "Unit": {"Description", "Wants", "After"},
    "Service": {
        *("EnvironmentFile", "Environment", "ExecStart", "Restart", "RestartSec", "KillSignal", "KillMode"),
        *("TimeoutStopSec", "LimitNOFILE", "DynamicUser", "NoNewPrivileges", "ProtectSystem", "ProtectHome"),
        *("PrivateTmp", "PrivateDevices", "CapabilityBoundingSet", "RestrictAddressFamilies", "SystemCallFilter"),
    },
    "Install": {"WantedBy"},
}


@pytest.mark.parametrize(("unit", "stops_s"), [("twin-sio@.service", 25), ("twin-sio-worker@.service", 10)])
def test_systemd_units_are_valid(unit: str, stops_s: int) -> None:
    """A systemd unit holds known directives and leaves time to stop."""
    parsed = configparser.RawConfigParser()
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read(DEPLOY / "systemd" / unit)
    for section in parsed.sections():
        assert set(parsed[section]) <= _DIRECTIVES[section]
    assert int(parsed["Service"]["TimeoutStopSec"]) > stops_s
    assert parsed["Service"]["KillSignal"] == "SIGTERM"


def test_the_image_holds_what_the_wheel_is_built_of() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    files = [name for line in copied for name in line.split()]
    assert {"setup.cfg", "pyproject.toml", "constraints.txt", "server.py", "worker.py", "twin_sio"} <= set(files)
    assert [name for name in files if not (DEPLOY.parent / name).exists()] == []


def test_the_image_is_given_what_it_copies_and_nothing_else() -> None:
    """What is not listed stays out of the build: conversations, secrets, other environments."""
    lines = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    given = {line[1:] for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert "*" in lines
    assert given == {name for line in copied for name in line.split()}


def test_the_image_can_recall() -> None:
    wanted = re.findall(r"\.\[([\w,]+)\]", (DEPLOY / "Dockerfile").read_text())
    extras = configparser.ConfigParser()
    extras.read(DEPLOY.parent / "setup.cfg")
    held = " ".join(extras["options.extras_require"][name] for name in wanted[0].split(","))
    assert "wordllama" in held


async def test_the_ingress_shows_what_is_for_clients(instance: Service) -> None:
    """Every route of clients, and none of operators."""
    (rule,) = MANIFESTS["Ingress twin-sio"]["spec"]["rules"]
    paths = rule["http"]["paths"]

    def is_shown(route: str) -> bool:
        return any(
            route == one["path"] or (one["pathType"] == "Prefix" and route.startswith(one["path"] + "/"))
            for one in paths
        )

    routes = {resource.canonical.rstrip("/") for resource in instance.app(None).router.resources()}
    operators = {"/metrics", "/readyz", "/healthz"}
    assert operators <= routes
    assert {route for route in routes if not is_shown(route)} == operators
    assert all(one["backend"]["service"]["name"] == "twin-sio" for one in paths)


def test_only_the_ingress_and_prometheus_reach_the_pods() -> None:
    policy = MANIFESTS["NetworkPolicy twin-sio"]["spec"]
    for kind in ("web", "worker"):
        pods = MANIFESTS[f"Deployment twin-sio-{kind}"]["spec"]["template"]["metadata"]["labels"]
        assert policy["podSelector"]["matchLabels"].items() <= pods.items()
    (rule,) = policy["ingress"]
    assert len(rule["from"]) == 2
    assert policy["policyTypes"] == ["Ingress"]
