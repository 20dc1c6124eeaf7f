"""infra/ against the published schemas, and against our own code: what it names must exist here."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import typer.main
import yaml
from prefect.settings import Settings

from pangu import cli
from pangu.stack.ports import CUSTOMARY
from tests import subtests

checks = subtests.Checks()

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
MANIFESTS = sorted(path for path in (INFRA / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
KUBERNETES = "1.32"


def read(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


@cache
def compose() -> dict[str, Any]:
    return read(INFRA / "compose.yaml")[0]


def objects() -> list[dict[str, Any]]:
    return [one for path in MANIFESTS for one in read(path)]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, pod specification) of everything that runs, Ray's own resource included."""
    for one in objects():
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]
        if one["kind"] == "RayCluster":
            yield "ray-head", one["spec"]["headGroupSpec"]["template"]["spec"]
            for group in one["spec"]["workerGroupSpecs"]:
                yield f"ray-{group['groupName']}", group["template"]["spec"]


def generator() -> dict[str, str]:
    """The variables that every pod of ours is given."""
    (made,) = read(INFRA / "kubernetes/kustomization.yaml")[0]["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in made["literals"])


def variables() -> set[str]:
    """Every environment variable that compose file and manifests set in parts of ours."""
    found = set(generator())
    for service in compose()["services"].values():
        found |= set(service.get("environment", {}))
    for _, pod in pods():
        found |= {one["name"] for container in pod["containers"] for one in container.get("env", [])}
    return found


def commands() -> Iterator[list[str]]:
    """What is run from our own image, as `python -m` is given it."""
    for service in compose()["services"].values():
        if str(service.get("image")).startswith("pangu:"):
            yield [str(word) for word in service["command"]]
    for _, pod in pods():
        yield from (
            container["args"]
            for container in pod["containers"]
            if container["image"].startswith("pangu") and "args" in container
        )


@checks
def the_compose_file_is_one_by_the_published_schema() -> None:
    folder = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = yaml.safe_load((folder / "compose-spec.json").read_text())
    jsonschema.Draft7Validator(schema).validate(compose())


@subtests.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_manifest_is_one_by_the_published_schemas(path: Path) -> None:
    for one in read(path):
        if one["kind"] != "RayCluster":
            kubernetes_validate.validate(one, KUBERNETES, strict=True)


@subtests.parametrize(("name", "pod"), list(pods()), ids=[name for name, _ in pods()])
def test_every_pod_is_one_and_runs_without_rights(name: str, pod: dict[str, Any]) -> None:
    spec = {"restartPolicy": "Always"} | pod
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}, KUBERNETES, strict=True
    )
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


@checks
def our_services_run_without_rights_and_listen_on_loopback_only() -> None:
    for name, service in compose()["services"].items():
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", [])), name
        if str(service.get("image")).startswith("pangu:"):
            assert service["user"] == "10001:10001" and service["cap_drop"] == ["ALL"] and service["read_only"]


@checks
def kustomize_finds_every_file_and_names_one_image() -> None:
    listed = read(INFRA / "kubernetes/kustomization.yaml")[0]["resources"]
    assert sorted(listed) == sorted(path.name for path in MANIFESTS)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kustomize_gives_every_pod_of_ours_the_image_that_was_built() -> None:
    built = subprocess.run(
        ["kubectl", "kustomize", str(INFRA / "kubernetes")], capture_output=True, text=True, check=True
    ).stdout
    assert set(re.findall(r"image: (pangu\S*)", built)) == {"pangu:cpu", "pangu:cuda"}


def test_gpus_are_on_workers_with_the_image_for_them_and_the_head_says_that_it_has_none() -> None:
    (ray,) = [one["spec"] for one in objects() if one["kind"] == "RayCluster"]
    head, groups = ray["headGroupSpec"], ray["workerGroupSpecs"]
    tags = {one["name"]: one["newTag"] for one in read(INFRA / "kubernetes/kustomization.yaml")[0]["images"]}
    on_workers = []
    for name, pod in pods():
        for container in pod["containers"]:
            has_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert has_gpu == (tags.get(container["image"]) == "cuda"), name
            on_workers += [name] if has_gpu else []
    assert on_workers == [f"ray-{group['groupName']}" for group in groups] and groups
    assert head["rayStartParams"]["num-gpus"] == "0"  # or Ray would count those of its machine
    assert all(group["minReplicas"] >= 1 for group in groups)  # stages ask for what the cluster has

    services = compose()["services"]
    command = services["ray"]["command"]
    assert command[command.index("--num-gpus") + 1] == "0"
    having = {name for name, service in services.items() if "deploy" in service}
    assert (
        having == {name for name, service in services.items() if service.get("image") == "pangu:cuda"} == {"ray-gpus"}
    )


def test_every_pangu_command_exists_with_its_options() -> None:
    from pangu.cli import monitoring, stack

    for part in (monitoring, stack):
        part.register(cli.app)
    group = typer.main.get_command(cli.app)
    found = [command for command in commands() if command[0] == "pangu"]
    assert found
    for _, name, *words in found:
        known = group.commands[name]  # type: ignore[attr-defined]
        options = {option for parameter in known.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


def test_every_command_of_the_servers_exists() -> None:
    import mlflow.cli
    from ray.scripts.scripts import start

    known = {"mlflow": mlflow.cli.server, "ray.scripts.scripts": start}
    for module, verb, *words in commands():
        if module in known:
            assert known[module].name == verb
            options = {option for parameter in known[module].params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options
        else:
            assert (module, verb) in {
                ("prefect", "server"), ("prefect", "worker"), ("pangu", "metrics"), ("pangu", "deployments"),
            }  # fmt: skip


def test_every_variable_is_read_by_somebody() -> None:
    ours = "".join(path.read_text() for folder in ("pangu", "flows") for path in (ROOT / folder).rglob("*.py"))
    prefect = {f"PREFECT_{name}" for name in prefect_settings()}
    import mlflow.environment_variables as mlflow_variables

    mlflow_known = {value.name for value in vars(mlflow_variables).values() if hasattr(value, "name")}
    keys = {settings["keys_variable"] for settings in read(INFRA / "serve.json")}
    for name in variables():
        if name.startswith("PANGU_"):
            assert f'"{name}"' in ours or name in keys, name
        elif name.startswith("PREFECT_"):
            assert name in prefect, name
        elif name.startswith("MLFLOW_"):
            assert name in mlflow_known or name == "MLFLOW_BACKEND_STORE_URI", name
        else:
            assert name.startswith(("RAY_", "AWS_", "POSTGRES_", "MINIO_", "GF_", "MC_", "PGDATA", "STORAGE_")), name


def prefect_settings() -> set[str]:
    """Names of Prefect's settings without their prefix, e.g. API_URL."""
    from prefect.settings.base import PrefectBaseSettings

    def names(model: type, prefix: str) -> Iterator[str]:
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, PrefectBaseSettings):
                yield from names(inner, f"{prefix}{name.upper()}_")
            else:
                yield f"{prefix}{name.upper()}"
                alias = field.validation_alias
                yield from (str(one).upper().removeprefix("PREFECT_") for one in getattr(alias, "choices", ()))

    return set(names(Settings, ""))


def test_ports_are_the_customary_ones() -> None:
    published = {port.split(":")[1] for service in compose()["services"].values() for port in service.get("ports", [])}
    assert {
        str(CUSTOMARY[name]) for name in ("prefect_port", "mlflow_port", "ray_dashboard_port", "serve_port")
    } <= published
    services = {
        one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in objects() if one["kind"] == "Service"
    }
    assert (services["prefect"], services["mlflow"], services["serving"]) == (
        CUSTOMARY["prefect_port"], CUSTOMARY["mlflow_port"], CUSTOMARY["serve_port"],
    )  # fmt: skip
    for variable, name in (("PREFECT_API_URL", "prefect"), ("MLFLOW_TRACKING_URI", "mlflow")):
        assert f"//{name}:{services[name]}" in generator()[variable]
    for name, port in (("RAY_ADDRESS", "ray_port"), ("RAY_API_SERVER_ADDRESS", "ray_dashboard_port")):
        assert generator()[name].endswith(f":{CUSTOMARY[port]}")


@checks
def every_file_that_is_mounted_or_copied_is_there() -> None:
    for service in compose()["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose()["volumes"] or (INFRA / source).exists(), source
    for line in (INFRA / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line


@checks
def the_images_have_a_target_for_cpu_and_one_for_cuda() -> None:
    text = (INFRA / "Dockerfile").read_text()
    assert {"base", "cpu", "cuda"} == set(re.findall(r"^FROM .* AS (\w+)$", text, re.MULTILINE))
    assert text.count("USER 10001:10001") == 2
    assert compose()["x-pangu"]["build"]["target"] == "cpu"


def test_secrets_come_from_outside_and_are_named_in_the_example() -> None:
    text = (INFRA / "compose.yaml").read_text()
    wanted = set(re.findall(r"\$\{(\w+):\?", text))
    lines = [line for line in (INFRA / ".env.example").read_text().splitlines() if re.match(r"[A-Z_]+=", line)]
    example = dict(line.split("=", 1) for line in lines)
    assert wanted == set(example)
    assert not [name for name, value in example.items() if value and name != "STORAGE_USER"]
    assert not [one for one in objects() if one["kind"] == "Secret"]
    for _, pod in pods():
        for container in pod["containers"]:
            for one in container.get("env", []):
                if re.search("PASSWORD|TOKEN|KEY", one["name"]):
                    assert "secretKeyRef" in one["valueFrom"], one["name"]


@checks
def nothing_is_reached_unless_a_policy_names_it() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in objects() if one["kind"] == "NetworkPolicy"}
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (outside,) = [
        rule["to"][0]["ipBlock"]
        for spec in policies.values()
        for rule in spec.get("egress", [])
        if "ipBlock" in str(rule)
    ]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(outside["except"])


test_manifests = checks.test()
