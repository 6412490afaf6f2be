"""Manifests from a short description: clusters/kuberay with names, images and sizes filled in."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from ray_st.cli.clusters.kustomize import Manifest, build_from
from ray_st.cli.clusters.serving import serve_config
from ray_st.cli.clusters.spec import GROUPS, ClusterSpec, GroupSpec, quantity
from ray_st.cli.run_checks import RunFileError, at

RUNS = "/mnt/runs"
"""Where pods mount the volume with the runs."""

_BASE_NAME = "ray-st"
_BASE_IMAGE = "ray-st:0.1.0-cuda"
_BASE_VERSION = "2.60.0"
_PARTS = {
    "train": ["jobs/train"],
    "search": ["jobs/search"],
    "nightly": ["jobs/train", "jobs/nightly"],
    "cluster": [],
    "serve": ["services/serve"],
}
_QUEUES = {"kueue.x-k8s.io/queue-name", "volcano.sh/queue-name"}
_SHM = 0.3  # of a pod's memory, which is what Ray takes for its object store


def shipped(name: str) -> Path:
    """A file or folder of ``clusters``: beside the package in a checkout, inside it when installed.

    Args:
        name: ``kuberay``, the folder with the base's files, or ``local.yaml``.

    Raises:
        RunFileError: If it is in neither place.
    """
    package = Path(__file__).parents[2]
    for place in (package / "_clusters" / name, package.parent / "clusters" / name):
        if place.exists():
            return place
    raise RunFileError(f"{package}: installed without clusters/{name}; name a folder or file of your own")


def render(spec: ClusterSpec, run_text: str | None, base: Path, where: str) -> list[Manifest]:
    """The manifests of a cluster.

    Args:
        spec: The description.
        run_text: The run file, if it has one.
        base: The folder clusters/kuberay.
        where: The description's file, for errors.

    Raises:
        RunFileError: If the base's files cannot be read.
    """
    storage = "s3" if spec.storage.bucket else "pvc"
    components = [
        storage,
        *spec.extras,
        *(["job"] if spec.run else []),
        *(["cron"] * (spec.kind == "nightly")),
        *(["service"] * (spec.kind == "serve")),
    ]
    objects = build_from(
        {
            "resources": ["base", *_PARTS[spec.kind]],
            "components": [f"components/{name}" for name in components],
        },
        base,
    )
    objects = [_swapped(one, _names(spec)) for one in objects if not _is_given(one, spec)]
    for one in objects:
        _fill(one, spec, run_text, where)
    return objects


def entrypoint(spec: ClusterSpec) -> str:
    """The command of a job's driver. For a nightly run, the submitting shell fills in the date."""
    name = f"{spec.name}-$(date -u +%F)" if spec.kind == "nightly" else spec.name
    command = "tune" if spec.kind == "search" else "train"
    words = ["ray-st", command, "/etc/ray-st/run.yaml", *(["--continue"] * (command == "train"))]
    return " ".join([*words, *overrides(spec, name)])


def overrides(spec: ClusterSpec, name: str) -> list[str]:
    """The overrides of a job's run file: the run's name, by which retries resume, and its storage.

    Args:
        spec: The description.
        name: The run's name.
    """
    search = [f"search.name={name}"] if spec.kind == "search" else []
    if spec.storage.bucket is not None:
        bucket = spec.storage.bucket.rstrip("/")
        return [*search, f"run.name={name}", f"run.storage_path={bucket}", f"args.output_dir=/tmp/{name}"]
    if search:
        return [*search, f"args.output_dir={RUNS}"]
    return [f"run.name={name}", f"run.storage_path={RUNS}", f"args.output_dir={RUNS}/{name}"]


def as_yaml(objects: list[Manifest]) -> str:
    """Manifests as a stream of YAML documents."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


class _Dumper(yaml.SafeDumper):
    """Writes multi-line texts as blocks, and no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _names(spec: ClusterSpec) -> dict[str, str]:
    """The replacement of each name in the base's files."""
    name = spec.name
    names = {_BASE_NAME: name, "ray-st-redis:6379": f"{name}-redis:6379"}
    names |= {
        f"{_BASE_NAME}-{part}": f"{name}-{part}"
        for part in ("head", "worker", "run", "redis", "monitoring", "boards", "clients")
    }
    names |= {f"{_BASE_NAME}-{kind}": name for kind in ("train", "search", "nightly", "serve")}
    names["ray-st-token"] = spec.token_secret or f"{name}-token"
    names["ray-st-runs"] = spec.storage.volume or "ray-st-runs"
    names["ray-st-storage"] = spec.storage.secret or f"{name}-storage"
    names |= {_BASE_IMAGE: spec.image, _BASE_VERSION: spec.ray_version or _BASE_VERSION}
    return names


def _swapped(value: object, names: dict[str, str]) -> Any:
    """A copy with names replaced."""
    if isinstance(value, dict):
        return {key: _swapped(part, names) for key, part in value.items()}
    if isinstance(value, list):
        return [_swapped(part, names) for part in value]
    return names.get(value, value) if isinstance(value, str) else value


def _is_given(one: Manifest, spec: ClusterSpec) -> bool:
    """Whether an object exists already: a claim without a size is not ours to create."""
    return one["kind"] == "PersistentVolumeClaim" and spec.storage.size is None


def _fill(one: Manifest, spec: ClusterSpec, run_text: str | None, where: str) -> None:
    if spec.namespace is not None:
        one["metadata"]["namespace"] = spec.namespace
    for label in _QUEUES.intersection(one["metadata"]["labels"]) if spec.queue is not None else ():
        one["metadata"]["labels"][label] = spec.queue
    if one["kind"] == "ConfigMap" and "run.yaml" in one["data"]:
        one["data"] = {"run.yaml": run_text}
    elif one["kind"] == "PersistentVolumeClaim":
        one["spec"]["resources"]["requests"]["storage"] = spec.storage.size
    elif one["kind"] == "RayCluster":
        _fill_cluster(one["spec"], spec, where)
    elif one["kind"] == "RayJob":
        _fill_job(one["spec"], spec, where)
    elif one["kind"] == "RayCronJob":
        one["spec"]["schedule"] = spec.schedule or one["spec"]["schedule"]
        _fill_job(one["spec"]["jobTemplate"], spec, where)
    elif one["kind"] == "RayService" and spec.serve is not None:
        one["spec"]["serveConfigV2"] = serve_config(one["spec"]["serveConfigV2"], spec.serve)
        _fill_cluster(one["spec"]["rayClusterConfig"], spec, where)


def _fill_job(job: Manifest, spec: ClusterSpec, where: str) -> None:
    job["entrypoint"] = entrypoint(spec)
    if spec.retries is not None:
        job["backoffLimit"] = spec.retries
    _fill_cluster(job["rayClusterSpec"], spec, where)


def _fill_cluster(cluster: Manifest, spec: ClusterSpec, where: str) -> None:
    _fill_pod(cluster["headGroupSpec"]["template"], spec.head)
    if spec.groups:
        made = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
        cluster["workerGroupSpecs"] = [made[name] for name in GROUPS if name in spec.groups]
    for group in cluster["workerGroupSpecs"]:
        wanted = spec.groups.get(group["groupName"])
        if wanted is not None:
            group["replicas"] = group["minReplicas"] = wanted.replicas
            group["maxReplicas"] = max(wanted.max or wanted.replicas, 1)
            if wanted.gpu and group["groupName"] == "cpu":
                raise RunFileError(
                    f"{at(where, 'groups.cpu')}.gpu: pods of this group have none; use `gpu` or `spot`"
                )
            _fill_pod(group["template"], wanted)


def _fill_pod(template: Manifest, wanted: GroupSpec) -> None:
    pod = template["spec"]
    container = pod["containers"][0]
    asked = {"cpu": wanted.cpu, "memory": wanted.memory, "nvidia.com/gpu": wanted.gpu, **wanted.devices}
    amounts = container["resources"]["requests"]
    amounts |= {name: str(amount) for name, amount in asked.items() if amount is not None}
    container["resources"]["limits"] = dict(amounts)
    if wanted.memory or wanted.shm:
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "shm"]
        enough = f"{math.ceil(quantity(amounts['memory']) * _SHM / 2**20)}Mi"
        volume["emptyDir"]["sizeLimit"] = wanted.shm or enough
    given = [variable for variable in container["env"] if variable["name"] not in wanted.env]
    container["env"] = given + [{"name": name, "value": str(value)} for name, value in wanted.env.items()]
    if wanted.annotations:
        template["metadata"]["annotations"] = dict(wanted.annotations)
    if wanted.node_selector:
        pod["nodeSelector"] = dict(wanted.node_selector)
