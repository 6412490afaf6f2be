"""The short description of a cluster, checked key by key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_st.cli.clusters.serving import ServeSpec, as_serving, check_room
from ray_st.cli.run_checks import RunFileError, at, build, check_mapping
from ray_st.util.names import did_you_mean
from ray_st.util.secrets import without_secrets

KINDS = ("train", "search", "nightly", "cluster", "serve")
GROUPS = ("gpu", "spot", "cpu")
EXTRAS = ("kueue", "volcano", "redis", "monitoring")

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_IMAGE = re.compile(r"[a-z0-9][\w./-]*(:\d+/[\w./-]+)?(:(?P<tag>[\w][\w.-]*)|@sha256:[0-9a-f]{64})")
_BUCKET = re.compile(r"s3://[a-z0-9][-a-z0-9.]+(/[\w.=/-]*)?")
_DEVICE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-\w.]*[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_QUANTITY = re.compile(r"[1-9]\d*(\.\d+)?(Ki|Mi|Gi|Ti|k|M|G|T)?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_SCHEDULE = re.compile(r"[\d*/,-]+( [\w*/,-]+){4}|@(hourly|daily|weekly|monthly)")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True)
class StorageSpec:
    """Where runs are kept: a volume or a bucket.

    Args:
        volume: Name of the volume's claim, which all pods mount at /mnt/runs.
        size: Size of a claim to create; None uses an existing one.
        bucket: ``s3://bucket/folder`` instead.
        secret: Name of the Secret with the bucket's keys; None if service accounts have an identity.
    """

    volume: str | None = None
    size: str | None = None
    bucket: str | None = None
    secret: str | None = None


@dataclass(frozen=True)
class GroupSpec:
    """A group of identical pods.

    Args:
        replicas: Initial and minimum number of pods.
        max: Maximum number of pods; by default ``replicas``.
        cpu: CPU cores per pod.
        memory: Memory per pod, such as ``64Gi``.
        gpu: GPUs per pod.
        shm: Shared memory per pod, part of its memory; by default three tenths of it, which is what Ray uses.
        devices: Further devices per pod by their resource's name, such as ``{rdma/hca: 8}``.
        env: Environment variables, such as ``{NCCL_IB_HCA: mlx5}``; overriding those of the base.
        annotations: Annotations of the pods, such as the networks of SR-IOV adapters.
        node_selector: Labels that a pod's node must have.
    """

    replicas: int = 0
    max: int | None = None
    cpu: int | None = None
    memory: str | None = None
    gpu: int | None = None
    shm: str | None = None
    devices: dict[str, int] = field(default_factory=dict)
    env: dict[str, str | int] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    node_selector: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ClusterSpec:
    """A cluster on Kubernetes, and the run on it.

    Args:
        kind: ``train``, ``search``, ``nightly`` (a run every night), ``cluster`` (a long-lived one) or
            ``serve`` (a model behind HTTP).
        name: Name of all its objects and of the run, which retries continue.
        image: The image, with a tag or digest.
        run: The run file, for all kinds but ``cluster`` and ``serve``.
        serve: The model and its replicas, for ``serve``.
        namespace: The namespace; by default kubectl's.
        ray_version: Ray's version in the image; by default that of the base.
        storage: Where runs are kept.
        token_secret: Name of the Secret whose ``auth_token`` clients must present; by default the name and
            ``-token``.
        head: The head's pod; ``replicas``, ``max``, ``gpu`` and ``devices`` have no meaning there.
        groups: Worker groups by name.
        extras: A subset of :data:`EXTRAS`.
        queue: The queue of Kueue or Volcano.
        retries: Number of new clusters that a job may start after its first.
        schedule: When a nightly run starts, in cron syntax.
    """

    kind: str
    name: str
    image: str
    run: str | None = None
    serve: ServeSpec | None = None
    namespace: str | None = None
    ray_version: str | None = None
    storage: StorageSpec = StorageSpec(volume="ray-st-runs")
    token_secret: str | None = None
    head: GroupSpec = GroupSpec()
    groups: dict[str, GroupSpec] = field(default_factory=dict)
    extras: list[str] = field(default_factory=list)
    queue: str | None = None
    retries: int | None = None
    schedule: str | None = None


def as_spec(raw: Mapping[str, Any], where: str) -> ClusterSpec:
    """Validates a description.

    Args:
        raw: What the file says.
        where: The file's name, for errors.

    Raises:
        RunFileError: If a key is unknown or a value is invalid.
    """
    given = dict(raw)
    if "storage" in given:
        given["storage"] = _storage(given["storage"], at(where, "storage"))
    if "head" in given:
        given["head"] = _group(given["head"], at(where, "head"), ("replicas", "max", "gpu", "devices"))
    if "groups" in given:
        groups = check_mapping(given["groups"], at(where, "groups"))
        _check_known(groups, GROUPS, at(where, "groups"))
        given["groups"] = {name: _group(part, at(at(where, "groups"), name)) for name, part in groups.items()}
    if "serve" in given:
        given["serve"] = as_serving(given["serve"], at(where, "serve"))
    spec = build(ClusterSpec, given, where)
    _check_names(spec, where)
    _check_kind(spec, where)
    return spec


def quantity(text: str) -> float:
    """Converts a Kubernetes quantity such as ``64Gi`` to a number."""
    number = text.rstrip("KMGTik")
    return float(number) * _UNITS[text[len(number) :]]


def _storage(value: object, where: str) -> StorageSpec:
    storage = build(StorageSpec, value, where)
    if bool(storage.volume) == bool(storage.bucket):
        raise RunFileError(f"{where}: expected either `volume` or `bucket`")
    _check_matches(_BUCKET, "s3://bucket/folder", where, storage, ("bucket",))
    if storage.size is not None:
        check_amount(storage.size, at(where, "size"))
    _check_matches(
        _NAME, "a name of lower-case letters, digits and dashes", where, storage, ("volume", "secret")
    )
    return storage


def _group(value: object, where: str, senseless: tuple[str, ...] = ()) -> GroupSpec:
    group = build(GroupSpec, value, where)
    given = vars(group)
    for name in senseless:
        if name in check_mapping(value, where):
            raise RunFileError(f"{at(where, name)}: the head is one pod without work, and takes no device")
    for name in ("memory", "shm"):
        if given[name] is not None:
            check_amount(given[name], at(where, name))
    for name, least in (("replicas", 0), ("max", 1), ("cpu", 1), ("gpu", 1)):
        number = given[name]
        if number is not None and number < least:
            raise RunFileError(f"{at(where, name)}: expected at least {least}, found {number}")
    if group.max is not None and group.max < group.replicas:
        raise RunFileError(f"{at(where, 'max')}: {group.max} is less than the {group.replicas} replicas")
    _check_devices(group.devices, at(where, "devices"))
    _check_env(group.env, at(where, "env"))
    return group


def _check_devices(devices: Mapping[str, int], where: str) -> None:
    for name, number in devices.items():
        if not _DEVICE.fullmatch(name):
            raise RunFileError(f"{where}: expected a resource's name such as rdma/hca, found {name!r}")
        if name == "nvidia.com/gpu":
            raise RunFileError(f"{at(where, name)}: GPUs are the key `gpu` of the group")
        if number < 1:
            raise RunFileError(f"{at(where, name)}: expected at least 1, found {number}")


def _check_env(env: Mapping[str, str | int], where: str) -> None:
    for name in env:
        if not _VARIABLE.fullmatch(name):
            raise RunFileError(f"{where}: expected a variable's name such as NCCL_IB_HCA, found {name!r}")
        if without_secrets({name: "a secret"}) != {name: "a secret"}:
            raise RunFileError(
                f"{at(where, name)}: whoever may read the manifest would read it; put it into the Secret "
                "that storage.secret names"
            )


def check_amount(text: str, where: str) -> None:
    """Rejects a text that is not an amount of memory.

    Raises:
        RunFileError: If it is not; names the location.
    """
    if not _QUANTITY.fullmatch(text):
        raise RunFileError(f"{where}: expected an amount such as 64Gi, found {text!r}")


def _check_matches(
    pattern: re.Pattern[str], what: str, where: str, holder: StorageSpec | ClusterSpec, names: tuple[str, ...]
) -> None:
    for name in names:
        text = getattr(holder, name)
        if text is not None and not pattern.fullmatch(text):
            raise RunFileError(f"{at(where, name)}: expected {what}, found {text!r}")


def _check_known(given: Iterable[str], known: tuple[str, ...], where: str) -> None:
    for name in given:
        if name not in known:
            raise RunFileError(f"{where}: there is no {name!r}; {did_you_mean(str(name), known)}")


def _check_names(spec: ClusterSpec, where: str) -> None:
    word = "a name of lower-case letters, digits and dashes, at most 40, the first a letter"
    _check_matches(_NAME, word, where, spec, ("name", "namespace", "token_secret", "queue"))
    _check_matches(_VERSION, "a version such as 2.60.0", where, spec, ("ray_version",))
    _check_matches(_SCHEDULE, 'five fields such as "0 3 * * *"', where, spec, ("schedule",))
    found = _IMAGE.fullmatch(spec.image)
    if not found or found["tag"] == "latest":
        raise RunFileError(
            f"{at(where, 'image')}: expected an image with a tag that stays what it is, or a digest, "
            f"found {spec.image!r}"
        )
    _check_known([spec.kind], KINDS, at(where, "kind"))
    _check_known(spec.extras, EXTRAS, at(where, "extras"))


def _check_kind(spec: ClusterSpec, where: str) -> None:
    job = spec.kind not in ("cluster", "serve")
    if job != (spec.run is not None):
        raise RunFileError(f"{at(where, 'run')}: " + ("missing" if job else "a cluster that stays has none"))
    if spec.retries is not None and (not job or spec.retries < 0):
        raise RunFileError(f"{at(where, 'retries')}: expected at least 0, for a job")
    if spec.schedule is not None and spec.kind != "nightly":
        raise RunFileError(f"{at(where, 'schedule')}: only for kind: nightly")
    if spec.queue is not None and not {"kueue", "volcano"} & set(spec.extras):
        raise RunFileError(f"{at(where, 'queue')}: needs extras: [kueue] or [volcano]")
    if "kueue" in spec.extras and set(spec.groups) - {"gpu"}:
        raise RunFileError(f"{at(where, 'groups')}: Kueue admits pods of a fixed number: only `gpu` is there")
    _check_service(spec, where)


def _check_service(spec: ClusterSpec, where: str) -> None:
    if (spec.kind == "serve") != (spec.serve is not None):
        raise RunFileError(f"{at(where, 'serve')}: " + ("only for kind: serve" if spec.serve else "missing"))
    if spec.serve is None:
        return
    if queued := {"kueue", "volcano"} & set(spec.extras):
        raise RunFileError(
            f"{at(where, 'extras')}: a service does not wait in a queue: leave out {min(queued)}"
        )
    if spec.storage.bucket and spec.serve.model.startswith("/"):
        raise RunFileError(
            f"{at(where, 'serve.model')}: a folder must be on a volume that pods mount; storage is a bucket"
        )
    check_room(spec.serve, spec.groups, at(where, "serve"))
