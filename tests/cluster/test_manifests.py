"""The Kubernetes manifests: known fields only, and the rules cluster/README.md tells of.

The CRD schemas in schemas/ are KubeRay's.
"""

import copy
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(__file__).parent / "schemas"
MANIFESTS = {"raycluster.yaml": "rayclusters", "rayjob.yaml": "rayjobs"}
OURS = {"app.kubernetes.io/part-of": "aloe"}
SECRET_NAME = re.compile(r"key|token|secret|passw", re.IGNORECASE)
SECRET_VALUE = re.compile(r"AKIA[0-9A-Z]{16}|\bsk-[\w-]{16,}|\bhf_\w{16,}|PRIVATE KEY")

Json = dict[str, Any]
STRINGS: Json = {"type": "object", "additionalProperties": {"type": "string"}}
METADATA: Json = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
        "namespace": {"type": "string"},
        "labels": STRINGS,
        "annotations": STRINGS,
    },
}


def load(name: str) -> Json:
    return yaml.safe_load((ROOT / "cluster" / name).read_text())


def strict(schema: Any) -> Any:
    """The schema as JSON Schema, with unknown fields refused instead of silently dropped."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {k: strict(v) for k, v in schema.items() if k not in ("properties", "default")}
    if "properties" in schema:
        out["properties"] = {k: strict(v) for k, v in schema["properties"].items()}
    if schema.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
        out["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    # A type alone is what tells an object from the insides of anyOf, not, and the like.
    closed = schema.get("type") == "object" and "additionalProperties" not in schema
    if closed and not schema.get("x-kubernetes-preserve-unknown-fields"):
        out["additionalProperties"] = False
    return out


def crd(plural: str) -> Json:
    text = (SCHEMAS / f"ray.io_{plural}.yaml").read_text()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    versions = yaml.load(text, Loader=loader)["spec"]["versions"]
    served = next(v for v in versions if v["name"] == "v1" and v["served"])
    schema = strict(served["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = METADATA
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return schema


@pytest.fixture(scope="module")
def schema_of() -> Callable[[str], jsonschema.protocols.Validator]:
    cache: dict[str, jsonschema.protocols.Validator] = {}

    def get(plural: str) -> jsonschema.protocols.Validator:
        if plural not in cache:
            cache[plural] = jsonschema.Draft202012Validator(crd(plural))
        return cache[plural]

    return get


def cluster_spec(name: str) -> Json:
    spec = load(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def groups(name: str) -> list[Json]:
    spec = cluster_spec(name)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pods(name: str) -> list[Json]:
    """Every pod template the manifest makes, the job's submitter too."""
    submitter = load(name)["spec"].get("submitterPodTemplate")
    return [g["template"] for g in groups(name)] + ([submitter] if submitter else [])


def walk(node: Any) -> Iterator[Json]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


@pytest.mark.parametrize(("name", "plural"), MANIFESTS.items())
def test_manifest_fits_the_schema(name, plural, schema_of):
    errors = [f"{e.json_path}: {e.message}" for e in schema_of(plural).iter_errors(load(name))]
    assert errors == []


@pytest.mark.parametrize(
    ("where", "right", "wrong"),
    [
        ((), "entrypoint", "entryPoint"),
        ((), "ttlSecondsAfterFinished", "ttlSecondAfterFinished"),
        (("rayClusterSpec",), "enableInTreeAutoscaling", "enableInTreeAutoScaling"),
        (("rayClusterSpec", "workerGroupSpecs", 1), "maxReplicas", "maxReplica"),
        (
            ("rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0),
            "resources",
            "resorces",
        ),
        (
            ("rayClusterSpec", "headGroupSpec", "template", "spec", "securityContext"),
            "runAsNonRoot",
            "runAsNonroot",
        ),
    ],
)
def test_a_misspelt_field_is_refused(where, right, wrong, schema_of):
    manifest = copy.deepcopy(load("rayjob.yaml"))
    node = manifest["spec"]
    for step in where:
        node = node[step]
    node[wrong] = node.pop(right)
    errors = [e.message for e in schema_of("rayjobs").iter_errors(manifest)]
    assert any(wrong in message for message in errors)


def test_a_wrong_type_is_refused_and_int_or_string_takes_both(schema_of):
    manifest = load("raycluster.yaml")
    limits = manifest["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]
    limits["limits"] = {"cpu": 4, "memory": "32Gi"}
    assert schema_of("rayclusters").is_valid(manifest)
    limits["limits"] = {"cpu": ["4"]}
    assert not schema_of("rayclusters").is_valid(manifest)


def test_network_policy_fits_the_rule_schema_that_kuberay_embeds(schema_of):
    policy = load("networkpolicy.yaml")
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    assert policy.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert policy["spec"].keys() == {"podSelector", "policyTypes", "ingress"}
    cluster = schema_of("rayclusters").schema["properties"]["spec"]["properties"]
    if "networkPolicy" not in cluster:
        pytest.skip("these KubeRay schemas hold no network policy rules")
    rules = cluster["networkPolicy"]["properties"]["head"]["properties"]["ingressRules"]
    jsonschema.validate(policy["spec"]["ingress"], rules, jsonschema.Draft202012Validator)


def test_network_policy_lets_in_our_pods_and_the_operator_only():
    spec = load("networkpolicy.yaml")["spec"]
    assert spec["podSelector"] == {"matchLabels": OURS}
    assert spec["policyTypes"] == ["Ingress"]
    own, operator = spec["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": OURS}}]}
    (peer,) = operator["from"]
    assert peer.keys() == {"namespaceSelector", "podSelector"}
    assert all(selector["matchLabels"] for selector in peer.values())
    assert [port["port"] for port in operator["ports"]] == [8265]


@pytest.mark.parametrize("name", MANIFESTS)
def test_network_policy_covers_every_pod(name):
    assert all(OURS.items() <= pod["metadata"]["labels"].items() for pod in pods(name))


def test_both_manifests_describe_the_same_nodes():
    assert cluster_spec("raycluster.yaml") == cluster_spec("rayjob.yaml")


@pytest.mark.parametrize("name", MANIFESTS)
def test_head_takes_no_work_and_gpus_come_and_go(name):
    spec = cluster_spec(name)
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["authOptions"] == {"mode": "token"}
    gpu = [
        g
        for g in spec["workerGroupSpecs"]
        if "nvidia.com/gpu" in g["template"]["spec"]["containers"][0]["resources"]["limits"]
    ]
    assert gpu
    assert all(g["minReplicas"] == 0 < g["maxReplicas"] for g in gpu)
    assert all(g["minReplicas"] <= g["replicas"] <= g["maxReplicas"] for g in gpu)


def test_ray_version_is_the_pinned_one():
    pin = next(
        line.split("==")[1]
        for line in (ROOT / "requirements" / "gpu.txt").read_text().splitlines()
        if line.startswith("ray==")
    )
    assert cluster_spec("rayjob.yaml")["rayVersion"] == pin


def test_entrypoint_is_one_command_that_names_files_of_ours():
    entrypoint = load("rayjob.yaml")["spec"]["entrypoint"]
    words = list(shlex.shlex(entrypoint, posix=True, punctuation_chars=True))
    assert not {";", "&&", "||", "|", "&"} & set(words)
    assert "\n" not in entrypoint.strip()
    python, script, *rest = shlex.split(entrypoint)
    assert python == "python"
    assert script.startswith("jobs/")
    assert (ROOT / script).is_file()
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    assert (ROOT / options["--config"]).is_file()
    assert options["--run.dir"].startswith("s3://")  # a retry is a new cluster: no local state


def test_the_cluster_goes_when_the_job_is_over():
    spec = load("rayjob.yaml")["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert "deletionRules" not in spec.get("deletionStrategy", {})
    assert spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"] > 0


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_run_without_privileges_and_within_limits(name):
    for pod in pods(name):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["runAsUser"] > 0
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            size = container["resources"]
            assert size["requests"].keys() == size["limits"].keys() >= {"cpu", "memory"}
    for group in groups(name)[1:]:
        assert group["template"]["spec"]["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", [*MANIFESTS, "networkpolicy.yaml"])
def test_no_secret_is_written_down(name):
    manifest = load(name)
    assert not SECRET_VALUE.search((ROOT / "cluster" / name).read_text())
    assert manifest["kind"] != "Secret"
    for node in walk(manifest):
        if SECRET_NAME.search(str(node.get("name", ""))) and "value" in node:
            pytest.fail(f"{node['name']} has a literal value")
    runtime = yaml.safe_load(manifest["spec"].get("runtimeEnvYAML", "{}"))
    # TOKENIZERS_... is no token.
    names = [n.replace("TOKENIZERS", "") for n in runtime.get("env_vars", {})]
    assert not [n for n in names if SECRET_NAME.search(n)]


@pytest.mark.parametrize("name", MANIFESTS)
def test_keys_come_from_a_kubernetes_secret(name):
    for group in groups(name):
        for container in group["template"]["spec"]["containers"]:
            assert [source["secretRef"]["name"] for source in container["envFrom"]] == ["aloe-keys"]
