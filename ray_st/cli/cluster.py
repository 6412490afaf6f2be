"""Clusters from short descriptions: Kubernetes manifests, or a node on this machine."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray_st.cli.clusters.local import as_local, check_free, settings, start_command
from ray_st.cli.clusters.manifests import RUNS, as_yaml, overrides, render, shipped
from ray_st.cli.clusters.serving import is_here
from ray_st.cli.clusters.spec import ClusterSpec, as_spec
from ray_st.cli.raw_run import load_run
from ray_st.cli.run_checks import RunFileError, at, located
from ray_st.cli.runfile import RunFile, parse_run
from ray_st.data.table_spec import TableSpec
from ray_st.world import WorkerRange


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    printing = actions.add_parser(
        "render", help="print the manifests of a cluster, a run, a search or a service"
    )
    printing.add_argument("file", metavar="CLUSTER.yaml", help="the description; see docs/clusters.md")
    printing.add_argument("overrides", nargs="*", metavar="key=value", help="such as groups.gpu.replicas=4")
    printing.add_argument(
        "--base", type=Path, help="a folder to use instead of the clusters/kuberay that comes with ray_st"
    )
    starting = actions.add_parser(
        "start", help="start a Ray node on this machine in the foreground; Ctrl-C stops it"
    )
    starting.add_argument(
        "file", metavar="LOCAL.yaml", nargs="?", help="the description (default: one that comes with ray_st)"
    )
    starting.add_argument("overrides", nargs="*", metavar="key=value", help="such as cpus=4")
    starting.add_argument("--check", action="store_true", help="print the command without running it")


def run(options: argparse.Namespace) -> None:
    """Prints the manifests, or replaces this process with the node.

    Raises:
        RunFileError: If the description, or the run file that it names, is invalid.
    """
    if (
        options.file is None or "=" in options.file
    ):  # the file of `start` is optional: the first word may be an override
        options.overrides = [*filter(None, [options.file]), *options.overrides]
        options.file = str(shipped("local.yaml"))
    raw = load_run(options.file, options.overrides)
    {"render": _render, "start": _start}[options.action](raw, options)


def _start(raw: dict[str, Any], options: argparse.Namespace) -> None:
    spec = as_local(raw, options.file)
    command = start_command(spec)
    print(shlex.join(command), flush=True)
    if not options.check:
        for key, port in (("port", spec.port), ("dashboard_port", spec.dashboard_port)):
            check_free(spec.host, port, at(options.file, key))
        os.execve(command[0], command, settings(spec, os.environ, Path.home()))


def _render(raw: dict[str, Any], options: argparse.Namespace) -> None:
    spec = as_spec(raw, options.file)
    text = None
    if spec.run is not None:
        path = Path(options.file).parent / spec.run
        text = _checked_run(path, spec, options.file)
    if spec.serve is not None and is_here(spec.serve):
        raise RunFileError(
            f"{at(options.file, 'serve.model')}: {spec.serve.model!r} is a folder here; on the cluster there "
            f"is no such file; put it where all pods see it: {RUNS}/…"
        )
    print(as_yaml(render(spec, text, options.base or shipped("kuberay"), options.file)), end="")


def _checked_run(path: Path, spec: ClusterSpec, where: str) -> str:
    """The run file's text, after validating it with the entrypoint's overrides."""
    raw = load_run(str(path), overrides(spec, spec.name))
    if spec.kind == "search" and len(raw.pop("search")) == 1:  # the name alone
        raise RunFileError(f"{path}: search: missing; it says what to search")
    described = parse_run(raw, str(path))
    _check_paths(described)
    _check_size(described, spec, where)
    return path.read_text(encoding="utf-8")


def _check_paths(described: RunFile) -> None:
    """Rejects paths on this machine: pods see the image, the volume and URIs, not this folder."""
    cure = f"on the cluster there is no such file; put it where all pods see it: {RUNS}/… or s3://…"
    for where, table in _tables(described):
        for path in table.files():
            if "://" not in path and not Path(path).is_absolute():
                raise RunFileError(f"{where}: {path!r} is a path relative to this machine's folder; {cure}")
    model = described.model.path if described.model is not None else ""
    if _is_here(model):
        raise RunFileError(f"{at(described.source, 'model')}: {model!r} is a folder here; {cure}")


def _is_here(model: str) -> bool:
    """Whether a model is a relative path; names on the Hub look the same."""
    relative = "://" not in model and not Path(model).is_absolute()
    return relative and (model.startswith(".") or (bool(model) and Path(model).is_dir()))


def _tables(described: RunFile) -> Iterator[tuple[str, TableSpec]]:
    """The tables of a run file, each with its location in the file."""
    data, here = described.data, at(described.source, "data")
    for key, tables in (("train", data.train), ("eval", data.eval)) if data is not None else ():
        where = at(here, key)
        for name, table in (tables if isinstance(tables, dict) else {"": tables}).items():
            if table is not None:
                yield at(where, name) if name else where, table
    for place, evaluator in enumerate(described.evaluators):
        if evaluator.data is not None:
            yield at(at(at(described.source, "evaluators"), place), "data"), evaluator.data


def _check_size(described: RunFile, spec: ClusterSpec, where: str) -> None:
    """Rejects groups that start smaller than the run needs: the run does not wait for the autoscaler."""
    scaling = described.scaling
    if not scaling.get("use_gpu") or not spec.groups:
        return
    with located(at(described.source, "scaling"), ValueError):
        workers = WorkerRange.of(scaling.get("num_workers", 1)).least
    each = (scaling.get("resources_per_worker") or {}).get("GPU", 1)
    there = sum(group.replicas * (group.gpu or 1) for name, group in spec.groups.items() if name != "cpu")
    if workers * each > there:
        raise RunFileError(
            f"{at(where, 'groups')}: the run's {workers} workers need {workers * each:g} GPUs when it "
            f"starts, and the groups begin with {there}; raise groups.gpu.replicas, or lower the run's "
            "scaling.num_workers"
        )
