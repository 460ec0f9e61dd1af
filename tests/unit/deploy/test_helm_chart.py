"""The Helm chart, rendered by Helm, and held against the schemas of Kubernetes."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from moma_client.config.site import SiteConfig
from moma_server.cli.init import ServerSetup, init_server
from moma_server.config.server import ServerConfig

_CHART = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes" / "moma"
_VERSIONS = ("1.29", "1.37")  # the oldest that the chart takes, the newest there is
_INFO = 1  # of Helm's linter
_KEY = "ed25519:" + "0" * 64

_SITE = {
    "enabled": True,
    "teacher": {
        "mode": "frozen",
        "name": "teacher-a",
        "address": "teacher.example:8444",
        "key": _KEY,
    },
}
_MANY = {
    "enabled": True,
    "database": {"secret": "moma-database"},
    "autoscaling": {"enabled": True},
    "gpu": {"count": 1},
    "metrics": {"secret": "moma-metrics"},
}
_RELEASES: dict[str, dict[str, Any]] = {
    "coordinator": {"coordinator": {"enabled": True}},
    "coordinator with a relay": {
        "coordinator": {"enabled": True, "relay": True, "metrics": {"secret": "m"}},
        "network": {
            "membersFrom": [{"ipBlock": {"cidr": "203.0.113.0/24"}}],
            "metricsFrom": [{"namespaceSelector": {}}],
        },
    },
    "teacher": {"teacher": {"enabled": True, "budget": {"sites": {"site-a": 1000}}}},
    "teachers": {"teacher": _MANY, "image": {"pullSecrets": ["registry"]}},
    "relayed teacher": {
        "teacher": {"enabled": True, "relay": "coordinator.example:8446"}
    },
    "site": {"site": _SITE, "network": {"modelHub": True}},
    "all": {
        "coordinator": {"enabled": True},
        "teacher": {"enabled": True},
        "site": _SITE,
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
    },
}

Objects = list[dict[str, Any]]


def _rendered(values: dict[str, Any]) -> Objects:
    with helm_python.Chart.load(str(_CHART)) as chart:
        manifests = chart.render(values, name="moma", namespace="moma")
    return [
        one
        for name, text in sorted(manifests.items())
        if name.endswith(".yaml")
        for one in yaml.safe_load_all(text)
        if one is not None
    ]


@pytest.fixture(scope="module", params=_RELEASES)
def release(request: pytest.FixtureRequest) -> Objects:
    return _rendered(_RELEASES[request.param])


def _of(objects: Objects, kind: str) -> Objects:
    return [one for one in objects if one["kind"] == kind]


def _pods(objects: Objects) -> Iterator[dict[str, Any]]:
    for one in objects:
        if one["kind"] in {"StatefulSet", "Deployment", "Job"}:
            yield one["spec"]["template"]["spec"]


def _containers(objects: Objects) -> Iterator[dict[str, Any]]:
    for pod in _pods(objects):
        yield from (*pod["initContainers"], *pod["containers"])


def test_helm_finds_nothing_wrong_with_the_chart() -> None:
    found = helm_python.lint(str(_CHART), _RELEASES["all"])

    assert [one for one in found["messages"] if one["severity"] > _INFO] == []


def test_nothing_is_installed_until_a_role_is_switched_on() -> None:
    assert _rendered({}) == []


@pytest.mark.parametrize("version", _VERSIONS)
def test_kubernetes_takes_every_object(release: Objects, version: str) -> None:
    assert release
    for one in release:
        kubernetes_validate.validate(one, version, strict=True)


def test_kubernetes_schemas_refuse_a_key_that_is_misspelt(release: Objects) -> None:
    wrong = {**release[0], "speck": {}}

    with pytest.raises(kubernetes_validate.ValidationError, match="speck"):
        kubernetes_validate.validate(wrong, _VERSIONS[-1], strict=True)


def test_pods_fit_the_restricted_pod_security_standard(release: Objects) -> None:
    for pod in _pods(release):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all("hostPath" not in volume for volume in pod["volumes"])
    for container in _containers(release):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]


def test_every_volume_that_is_mounted_is_there(release: Objects) -> None:
    for one in release:
        if one["kind"] not in {"StatefulSet", "Deployment", "Job"}:
            continue
        pod = one["spec"]["template"]["spec"]
        there = {volume["name"] for volume in pod["volumes"]}
        claims = one["spec"].get("volumeClaimTemplates", [])
        there |= {claim["metadata"]["name"] for claim in claims}
        mounted = {
            mount["name"]
            for container in (*pod["initContainers"], *pod["containers"])
            for mount in container["volumeMounts"]
        }
        assert mounted == there


def test_secrets_are_named_and_never_made(release: Objects) -> None:
    assert _of(release, "Secret") == []


def test_every_pod_has_a_policy_of_its_network(release: Objects) -> None:
    policies = {
        policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for policy in _of(release, "NetworkPolicy")
    }
    roles = {
        container["name"] for pod in _pods(release) for container in pod["containers"]
    }

    assert roles == policies


def test_a_site_opens_no_port() -> None:
    site = _rendered(_RELEASES["site"])

    (policy,) = _of(site, "NetworkPolicy")
    assert policy["spec"]["ingress"] == []
    assert _of(site, "Service") == []
    assert all("ports" not in container for container in _containers(site))


def test_several_teachers_share_a_database_and_keep_one_up() -> None:
    objects = _rendered(_RELEASES["teachers"])

    (budget,) = _of(objects, "PodDisruptionBudget")
    (scaler,) = _of(objects, "HorizontalPodAutoscaler")
    (claim,) = _of(objects, "PersistentVolumeClaim")
    assert budget["spec"]["minAvailable"] == 1
    assert scaler["spec"]["minReplicas"] == 2
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    with pytest.raises(helm_python.HelmRenderError, match="PostgreSQL URL"):
        _rendered({"teacher": {"enabled": True, "replicas": 2}})


@pytest.mark.parametrize(
    "role", ["coordinator", "teacher", "teachers", "relayed teacher"]
)
def test_a_server_takes_the_folder_that_the_pod_is_given(
    role: str, tmp_path: Path
) -> None:
    member, state = _prepared(_RELEASES[role], tmp_path)

    text = (member / "server.yaml").read_text("utf-8")
    (member / "server.yaml").write_text(
        text.replace("/var/lib/moma", str(state)), "utf-8"
    )
    config = ServerConfig.from_yaml(member / "server.yaml")
    if role == "coordinator":
        assert config.coordinator is not None
        assert config.authority.key == member / "ca.key"
        assert config.authority.key.stat().st_mode & 0o777 == 0o600
        assert (state / "coordinator.pem").exists()
    else:
        url = "postgresql+psycopg://moma@db/moma" if role == "teachers" else None
        assert config.own_teacher().database == url
        assert (config.own_teacher().listen is None) == (role == "relayed teacher")
    assert config.authority.revoked.exists()


def test_a_renewed_certificate_is_not_replaced_by_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ca.pem").write_text("renewed")

    _, state = _prepared(_RELEASES["coordinator"], tmp_path)

    assert (state / "ca.pem").read_text() == "renewed"


def test_a_site_takes_the_config_that_the_pod_is_given(tmp_path: Path) -> None:
    member, _ = _prepared(_RELEASES["site"], tmp_path)

    config = SiteConfig.from_yaml(member / "config.yaml")

    assert config.site == "site-a"
    assert config.state_dir == Path("/var/lib/moma/state")


def _prepared(values: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """Runs a release's init container on a folder that `init` made."""
    (config,) = _of(_rendered(values), "ConfigMap")
    given, member, state = (folder / name for name in ("given", "member", "state"))
    for one in (given / "config", given / "secret", member, state):
        one.mkdir(parents=True, exist_ok=True)
    for name, text in config["data"].items():
        (given / "config" / name).write_text(text, "utf-8")
    init_server(folder / "made", ServerSetup(roles=("coordinator",)))
    for pattern in ("*.pem", "*.key"):
        for file in (folder / "made").glob(pattern):
            (given / "secret" / file.name).write_bytes(file.read_bytes())
    if values.get("teacher", {}).get("database"):
        (given / "database").mkdir()
        url = "postgresql+psycopg://moma@db/moma\n"
        (given / "database" / "url").write_text(url)
    script = given / "config" / "prepare.py"
    subprocess.run([sys.executable, script, given, member, state], check=True)
    return member, state
