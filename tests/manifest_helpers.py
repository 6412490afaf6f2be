"""What is asked of manifests, as functions of plain values: the operator's rules, our own, and the keys that are used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ray_st.cli.clusters.manifests import as_yaml, render
from ray_st.cli.clusters.spec import as_spec, quantity

ROOT = Path(__file__).parents[1]
KUBERAY = ROOT / "clusters" / "kuberay"
OVERLAYS = sorted(path.parent for path in KUBERAY.glob("overlays/*/kustomization.yaml"))

RULES = KUBERAY / "components" / "monitoring" / "rules.yaml"
"""The alert rules as an object of Prometheus's operator; :func:`rules` is what it must hold."""

ALPHA = ("networkPolicy", "tlsOptions", "historyServerOptions")
"""Fields that an operator with default feature gates refuses."""

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


RUN = """
model: some/model
data: {train: s3://bucket/pairs.parquet}
loss: MultipleNegativesRankingLoss
scaling: {num_workers: 2, use_gpu: true}
"""
SEARCH = (
    RUN + "search: {space: {args.learning_rate: [1e-5, 2e-5]}, objective: eval_loss, direction: minimize}"
)
TRAIN = {
    "kind": "train",
    "name": "sts",
    "image": "example.com/team/ray-st:0.1.0-cuda",
    "run": "run.yaml",
    "groups": {"gpu": {"replicas": 2, "cpu": 16, "memory": "128Gi", "gpu": 2}},
}
DESCRIPTIONS: dict[str, dict[str, Any]] = {
    "train": TRAIN,
    "bucket": TRAIN | {"storage": {"bucket": "s3://bucket/runs/", "secret": "keys"}, "namespace": "ml"},
    "claim": TRAIN | {"storage": {"volume": "mine", "size": "1Ti"}, "retries": 7, "ray_version": "2.61.0"},
    "eight GPUs": TRAIN
    | {
        "groups": {
            "gpu": {
                "replicas": 2,
                "cpu": 88,
                "memory": "960Gi",
                "gpu": 8,
                "devices": {"rdma/hca": 8},
                "env": {"NCCL_IB_HCA": "mlx5", "NCCL_IB_TC": 106, "RAY_JOB_STOP_WAIT_TIME_S": "90"},
                "annotations": {"k8s.v1.cni.cncf.io/networks": "rdma/one,rdma/two"},
            }
        },
    },
    "kueue": TRAIN | {"extras": ["kueue"], "queue": "team-a"},
    "volcano": TRAIN | {"extras": ["volcano", "monitoring"], "queue": "team-a"},
    "search": TRAIN
    | {
        "kind": "search",
        "run": "search.yaml",
        "groups": {"gpu": {"replicas": 2, "node_selector": {"pool": "gpu"}}, "cpu": {"max": 4}},
    },
    "nightly": TRAIN | {"kind": "nightly", "schedule": "30 2 * * 1"},
    "cluster": {"kind": "cluster", "name": "shared", "image": "ray-st:1", "extras": ["redis", "monitoring"]},
    "serve": {
        "kind": "serve",
        "name": "search",
        "image": "example.com/team/ray-st:0.1.0-cuda",
        "serve": {
            "model": "/mnt/runs/sts/final",
            "replicas": 4,
            "gpus_per_replica": 0.5,
            "cpus_per_replica": 2,
        },
        "groups": {"gpu": {"replicas": 2}},
        "extras": ["redis", "monitoring"],
    },
}
"""Descriptions of every kind, as `ray-st cluster render` reads them."""


def rendered(name: str) -> list[dict[str, Any]]:
    """The manifests of one of :data:`DESCRIPTIONS`."""
    spec = as_spec(DESCRIPTIONS[name], name)
    text = None if spec.run is None else RUN
    return list(yaml.safe_load_all(as_yaml(render(spec, text, KUBERAY, name))))


def rules() -> str:
    """The alert rules of clusters/monitoring as an object of Prometheus's operator."""
    labels = {"app.kubernetes.io/part-of": "ray-st", "release": "prometheus"}
    made = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "ray-st", "labels": labels},
        "spec": yaml.safe_load((ROOT / "clusters/monitoring/alerts.yaml").read_text()),
    }
    head = "# Generated from ../../../monitoring/alerts.yaml by tests/validate_manifests.py --write; a test compares them.\n"
    return head + as_yaml([made])


def cluster_of(one: dict[str, Any]) -> dict[str, Any] | None:
    """The cluster's spec inside an object of Ray's kinds; None for other kinds."""
    match one["kind"]:
        case "RayCluster":
            return one["spec"]
        case "RayJob":
            return one["spec"]["rayClusterSpec"]
        case "RayCronJob":
            return one["spec"]["jobTemplate"]["rayClusterSpec"]
        case "RayService":
            return one["spec"]["rayClusterConfig"]
    return None


def job_of(one: dict[str, Any]) -> dict[str, Any] | None:
    """The job's spec inside an object; None where there is none."""
    match one["kind"]:
        case "RayJob":
            return one["spec"]
        case "RayCronJob":
            return one["spec"]["jobTemplate"]
    return None


def groups_of(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pods_of(one: dict[str, Any]) -> list[dict[str, Any]]:
    """Every pod's spec that an object describes."""
    cluster, job = cluster_of(one), job_of(one)
    templates = [group["template"] for group in groups_of(cluster)] if cluster else []
    templates += [job["submitterPodTemplate"]] if job else []
    templates += [one["spec"]["template"]] if one["kind"] == "StatefulSet" else []
    return [template["spec"] for template in templates]


def operator_faults(one: dict[str, Any]) -> Iterator[str]:
    """What KubeRay's operator (1.6, validation.go) would refuse although the schema allows it."""
    cluster, job = cluster_of(one), job_of(one)
    if cluster is None:
        return
    if not _NAME.fullmatch(one["metadata"]["name"]) or len(one["metadata"]["name"]) > 47:
        yield "the name must be a DNS label of at most 47 characters"
    yield from _cluster_faults(cluster)
    if job is not None:
        yield from _job_faults(job)
    if one["kind"] == "RayService":
        yield from _service_faults(one["spec"])
    if one["kind"] == "RayCronJob" and len(one["spec"]["schedule"].split()) != 5:
        yield "the schedule must have five fields"


def _cluster_faults(cluster: dict[str, Any]) -> Iterator[str]:
    scales = cluster.get("enableInTreeAutoscaling", False)
    v2 = scales and cluster.get("autoscalerOptions", {}).get("version") == "v2"
    for group in groups_of(cluster):
        pod, params = group["template"]["spec"], group["rayStartParams"]
        names = {variable["name"] for variable in pod["containers"][0].get("env", [])}
        if "labels" in params:
            yield "labels belong beside rayStartParams"
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(params):
            yield "resources must stand in one place"
        if v2 and pod.get("restartPolicy", "Never") != "Never":
            yield "autoscaler v2 needs restartPolicy Never"
        if names & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME", "RAY_enable_autoscaler_v2"}:
            yield "Redis and the autoscaler have fields of their own"
        if group.get("suspend"):
            yield "suspending a group is an alpha feature"
        if not group.get("minReplicas", 0) <= group.get("replicas", 0) <= group.get("maxReplicas", 1):
            yield "replicas must lie between minReplicas and maxReplicas"
    major, minor, *_ = (int(part) for part in cluster["rayVersion"].split("."))
    if cluster["authOptions"]["mode"] == "token" and (major, minor) < (2, 52):
        yield "token authentication needs Ray 2.52"


def _job_faults(job: dict[str, Any]) -> Iterator[str]:
    if job.get("ttlSecondsAfterFinished", 0) and not job.get("shutdownAfterJobFinishes"):
        yield "a time to live needs shutdownAfterJobFinishes"
    if job.get("backoffLimit", 0) < 0 or job.get("activeDeadlineSeconds", 1) <= 0:
        yield "backoffLimit and activeDeadlineSeconds must be positive"
    if job.get("suspend") and not job.get("shutdownAfterJobFinishes"):
        yield "a job that is suspended must shut its cluster down"
    if job["submitterPodTemplate"]["spec"]["restartPolicy"] != "Never":
        yield "the submitter's restartPolicy must be Never"


def _service_faults(service: dict[str, Any]) -> Iterator[str]:
    if "name" in service["rayClusterConfig"]["headGroupSpec"].get("headService", {}).get("metadata", {}):
        yield "the head's service must have no name"
    if service.get("upgradeStrategy", {}).get("type", "None") not in ("None", "NewCluster"):
        yield "the third upgrade strategy is an alpha feature"
    for group in groups_of(service["rayClusterConfig"]):
        ports = {
            port["name"]: port["containerPort"]
            for port in group["template"]["spec"]["containers"][0]["ports"]
        }
        if ports.get("serve") != yaml.safe_load(service["serveConfigV2"])["http_options"]["port"]:
            yield "a pod without the port `serve`, of which the operator makes a service"


def house_faults(one: dict[str, Any]) -> Iterator[str]:
    """What we ask of an object beyond that."""
    if one["kind"] == "Secret":
        yield "a secret in a manifest"
    for pod in pods_of(one):
        yield from _pod_faults(pod)
    cluster = cluster_of(one)
    if cluster is None:
        return
    if set(cluster) & set(ALPHA):
        yield "an alpha field that a default operator refuses"
    if cluster["authOptions"].get("mode") != "token" or not cluster["authOptions"].get("secretName"):
        yield "no token by reference"
    if cluster["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        yield "a head with work"
    for group in groups_of(cluster):
        if "networkPolicy" in group:
            yield "an alpha field that a default operator refuses"
        yield from _shm_faults(group["template"]["spec"])


def _pod_faults(pod: dict[str, Any]) -> Iterator[str]:
    if not pod["securityContext"].get("runAsNonRoot") or "seccompProfile" not in pod["securityContext"]:
        yield "a pod that may run as root or without seccomp"
    for container in pod["containers"]:
        name, resources = container["name"], container["resources"]
        if resources["requests"] != resources["limits"]:
            yield f"{name}: requests differ from limits"
        if not re.search(r":[\w.-]+$|@sha256:", container["image"]) or container["image"].endswith(":latest"):
            yield f"{name}: an image that is not pinned"
        locked = container["securityContext"]
        if locked.get("allowPrivilegeEscalation") is not False or locked["capabilities"]["drop"] != ["ALL"]:
            yield f"{name}: more rights than it needs"
        for variable in container.get("env", []):
            if "value" in variable and re.search(r"TOKEN|SECRET|PASSWORD|KEY$", variable["name"]):
                yield f"{name}: {variable['name']} by value"


def _shm_faults(pod: dict[str, Any]) -> Iterator[str]:
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "shm"]
    memory = quantity(pod["containers"][0]["resources"]["limits"]["memory"])
    if volume["emptyDir"]["medium"] != "Memory" or quantity(volume["emptyDir"]["sizeLimit"]) < 0.3 * memory:
        yield "/dev/shm is smaller than the object store"
    if {"name": "shm", "mountPath": "/dev/shm"} not in pod["containers"][0]["volumeMounts"]:
        yield "/dev/shm is not mounted"


def keys_of(value: Any, path: str = "") -> set[str]:
    """Every path of keys in a value; items of lists are one place, and so are the values of free-form mappings."""
    if isinstance(value, list):
        return set().union(*(keys_of(part, f"{path}[]") for part in value))
    if not isinstance(value, dict):
        return set()
    if path.rpartition(".")[2] in _FREE:
        return set()
    found = {f"{path}.{key}" if path else key for key in value}
    for key, part in value.items():
        found |= keys_of(part, f"{path}.{key}" if path else key)
    return found


_FREE = ("labels", "annotations", "matchLabels", "nodeSelector", "requests", "limits", "rayStartParams")
