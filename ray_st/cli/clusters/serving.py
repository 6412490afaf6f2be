"""The part of a cluster's description that says which model it serves, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ray_st.cli.run_checks import RunFileError, at, build
from ray_st.models.exported.backend_options import BACKENDS

if TYPE_CHECKING:
    from ray_st.cli.clusters.spec import GroupSpec

_BASE_GPUS = 2  # pods of the base's group `gpu`, with one each


@dataclass(frozen=True)
class ServeSpec:
    """Arguments of the application in examples/serve_embeddings.py, by the same names.

    Args:
        model: A folder as the pods see it, or a name on the Hub.
        reranker: Whether it is a reranker; by default inferred from its folder.
        backend: What computes: one of :data:`BACKENDS`.
        file_name: File of the exported model, for onnx and openvino.
        replicas: Processes that hold the model.
        cpus_per_replica: CPUs, and threads, of each.
        gpus_per_replica: GPUs of each: a part of one, or a whole number.
        ingresses: Processes that check requests and pass them on.
        cpus_per_ingress: CPUs of each; more than 0, so that none is on the head.
    """

    model: str
    reranker: bool | None = None
    backend: str = "torch"
    file_name: str | None = None
    replicas: int = 2
    cpus_per_replica: float = 1
    gpus_per_replica: float = 0
    ingresses: int = 2
    cpus_per_ingress: float = 0.5


def as_serving(raw: object, where: str) -> ServeSpec:
    """Validates the description of a service.

    Args:
        raw: What the file says under ``serve``.
        where: Its location, for errors.

    Raises:
        RunFileError: If a key is unknown or a value is invalid.
    """
    spec = build(ServeSpec, raw, where)
    if not spec.model or "://" in spec.model or spec.model.startswith("."):
        raise RunFileError(
            f"{at(where, 'model')}: expected a folder as the pods see it, such as /mnt/runs/sts/final, or a "
            f"name on the Hub, found {spec.model!r}"
        )
    if spec.backend not in BACKENDS:
        raise RunFileError(
            f"{at(where, 'backend')}: expected one of {', '.join(BACKENDS)}, found {spec.backend!r}"
        )
    for name in ("replicas", "ingresses"):
        if getattr(spec, name) < 1:
            raise RunFileError(f"{at(where, name)}: expected at least 1, found {getattr(spec, name)}")
    for name in ("cpus_per_replica", "cpus_per_ingress"):
        if not getattr(spec, name) > 0:
            raise RunFileError(
                f"{at(where, name)}: expected more than 0, found {getattr(spec, name)}: what asks for no CPU "
                "may be started on the head, which is to do no work"
            )
    gpus = spec.gpus_per_replica
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise RunFileError(
            f"{at(where, 'gpus_per_replica')}: expected a part of a GPU or a whole number, found {gpus}"
        )
    return spec


def check_room(spec: ServeSpec, groups: Mapping[str, GroupSpec], where: str) -> None:
    """Rejects replicas that need more GPUs than the groups can have.

    Args:
        spec: The service.
        groups: Worker groups by name; none are the base's.
        where: Location of ``serve``, for errors.

    Raises:
        RunFileError: If so.
    """
    share = spec.gpus_per_replica
    if share == 0:
        return
    pods = [
        (max(group.max or 0, group.replicas), group.gpu or 1)
        for name, group in groups.items()
        if name != "cpu"
    ]
    # A replica's GPUs are those of one pod, and a part of a GPU is a part of one.
    room = sum(
        count * (gpus * int(1 / share + 1e-6) if share < 1 else gpus // int(share))
        for count, gpus in (pods if groups else [(_BASE_GPUS, 1)])
    )
    if spec.replicas > room:
        raise RunFileError(
            f"{at(where, 'replicas')}: {spec.replicas} replicas of {share:g} GPUs each do not fit: the "
            f"groups have room for {room}; raise groups.gpu.replicas or max, or lower gpus_per_replica"
        )


def is_here(spec: ServeSpec) -> bool:
    """Whether the model is a relative path of this machine; names on the Hub look the same."""
    return not Path(spec.model).is_absolute() and Path(spec.model).is_dir()


def serve_config(text: str, spec: ServeSpec) -> str:
    """The configuration of Ray Serve for a service.

    Args:
        text: That of the base, in YAML, with one application.
        spec: The service, whose arguments replace the application's.
    """
    config: dict[str, Any] = yaml.safe_load(text)
    (application,) = config["applications"]
    application["args"] = {name: value for name, value in asdict(spec).items() if value is not None}
    return yaml.safe_dump(config, sort_keys=False)
