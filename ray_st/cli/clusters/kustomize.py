"""The subset of kustomize that clusters/kuberay uses, so that manifests can be rendered without it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ray_st.cli.run_checks import RunFileError, check_keys, check_mapping
from ray_st.cli.yaml_text import YamlError, load_yaml

Manifest = dict[str, Any]

FILE = "kustomization.yaml"
_KEYS = ("apiVersion", "kind", "resources", "components", "configMapGenerator", "patches", "replacements")
_LOCAL = "config.kubernetes.io/local-config"


def build(folder: Path) -> list[Manifest]:
    """The objects that a folder's kustomization describes.

    Args:
        folder: The folder with the ``kustomization.yaml``.

    Raises:
        RunFileError: If a file is missing, is not YAML, or uses an unsupported feature of kustomize.
    """
    return build_from(_one(folder / FILE), folder)


def build_from(kustomization: Mapping[str, Any], folder: Path) -> list[Manifest]:
    """The objects that a kustomization describes.

    Args:
        kustomization: The content of its file.
        folder: Base folder of its paths.

    Raises:
        RunFileError: As for :func:`build`.
    """
    objects: list[Manifest] = []
    _accumulate(objects, kustomization, folder)
    return [one for one in objects if (one["metadata"].get("annotations") or {}).get(_LOCAL) != "true"]


def _accumulate(objects: list[Manifest], kustomization: Mapping[str, Any], folder: Path) -> None:
    """Applies a kustomization in kustomize's order; a component applies to its parent's objects."""
    check_keys(kustomization, _KEYS, str(folder / FILE))
    for name in kustomization.get("resources", ()):
        path = folder / name
        if path.is_dir():
            _accumulate(objects, _one(path / FILE), path)
        else:
            objects.extend(_documents(path))
    objects.extend(_config_map(given, folder) for given in kustomization.get("configMapGenerator", ()))
    for name in kustomization.get("components", ()):
        _accumulate(objects, _one(folder / name / FILE), folder / name)
    for given in kustomization.get("patches", ()):
        operations = load_yaml(given["patch"])
        for target in _selected(objects, given["target"]):
            patch(target, operations)
    for given in kustomization.get("replacements", ()):
        _replace(objects, given)


def _one(path: Path) -> Manifest:
    documents = list(_documents(path))
    if len(documents) != 1:
        raise RunFileError(f"{path}: expected one YAML document, found {len(documents)}")
    return documents[0]


def _documents(path: Path) -> Iterator[Manifest]:
    try:
        for text in re.split(r"^---$", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            if (value := load_yaml(text)) is not None:
                yield check_mapping(value, str(path))
    except OSError as error:
        raise RunFileError(f"{path}: cannot be read: {error.strerror}") from error
    except YamlError as error:
        raise RunFileError(f"{path}: {error}") from error


def _config_map(given: Mapping[str, Any], folder: Path) -> Manifest:
    options = given["options"]
    metadata = {"name": given["name"], "labels": options["labels"]}
    data = {Path(name).name: (folder / name).read_text(encoding="utf-8") for name in given["files"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _selected(objects: list[Manifest], target: Mapping[str, Any]) -> list[Manifest]:
    return [one for one in objects if one["kind"] == target["kind"]]


def _replace(objects: list[Manifest], given: Mapping[str, Any]) -> None:
    """Copies a field of one object into fields of others."""
    (source,) = _selected(objects, given["source"])
    value = source[given["source"]["fieldPath"]]
    for target in given["targets"]:
        for one in _selected(objects, target["select"]):
            for path in target["fieldPaths"]:
                patch(one, [{"op": "replace", "path": "/" + path.replace(".", "/"), "value": value}])


def patch(target: Manifest, operations: list[dict[str, Any]]) -> None:
    """Applies a JSON patch (RFC 6902) of the operations add, replace and remove, in place.

    Args:
        target: The object.
        operations: ``op``, ``path`` and ``value`` each.

    Raises:
        RunFileError: If a path leads nowhere.
    """
    for operation in operations:
        *steps, last = [_unescaped(step) for step in operation["path"].split("/")[1:]]
        holder: Any = target
        try:
            for step in steps:
                holder = holder[int(step) if isinstance(holder, list) else step]
            _change(holder, last, operation)
        except (LookupError, ValueError, TypeError) as error:
            raise RunFileError(
                f"{target['kind']} {target['metadata']['name']}: the patch's path {operation['path']} "
                "leads nowhere"
            ) from error


def _change(holder: list[Any] | dict[str, Any], key: str, operation: Mapping[str, Any]) -> None:
    op, value = operation["op"], copy.deepcopy(operation.get("value"))
    if isinstance(holder, list):
        if op == "add":
            holder.insert(len(holder) if key == "-" else int(key), value)
        elif op == "replace":
            holder[int(key)] = value
        else:
            del holder[int(key)]
    elif op == "add":
        holder[key] = value
    else:
        del holder[key]  # it must exist
        if op == "replace":
            holder[key] = value


def _unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")
