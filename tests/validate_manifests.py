"""Checks all manifests against the operator's CRD schemas, and writes down the keys that passed.

    python tests/validate_manifests.py SCHEMAS [--kubectl] [--write]

SCHEMAS is a folder with `ray.io_rayclusters.yaml`, `ray.io_rayjobs.yaml`, `ray.io_raycronjobs.yaml` and
`ray.io_rayservices.yaml`, as KubeRay's releases have them under `config/crd/bases`. `--kubectl` also compares every overlay with what `kubectl kustomize` builds.
CI has no schemas: it checks that manifests use no key that is not in clusters/keys.txt, which `--write` writes, with
components/monitoring/rules.yaml from the alert rules.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from manifest_helpers import (
    DESCRIPTIONS,
    OVERLAYS,
    RULES,
    house_faults,
    keys_of,
    operator_faults,
    rendered,
    rules,
)
from ray_st.cli.clusters.kustomize import build

KEYS = Path(__file__).parent / "clusters" / "keys.txt"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("schemas", type=Path)
    parser.add_argument("--kubectl", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    validators = {
        kind: validator(path) for path in options.schemas.glob("ray.io_*.yaml") for kind in kinds(path)
    }
    faults, checked, keys = [], 0, set()
    everything = {overlay.name: build(overlay) for overlay in OVERLAYS}
    for overlay in OVERLAYS if options.kubectl else ():
        if by_name(everything[overlay.name]) != by_name(by_kubectl(overlay)):
            faults.append(f"{overlay.name}: kubectl builds something else")
    everything |= {f"rendered {name}": rendered(name) for name in DESCRIPTIONS}
    for name, objects in everything.items():
        for one in objects:
            if one["apiVersion"] == "ray.io/v1":
                checked += 1
                keys |= {f"{one['kind']} {key}" for key in keys_of(one)}
                faults += [
                    f"{name}: {one['kind']}: {'.'.join(map(str, error.path))}: {error.message}"
                    for error in validators[one["kind"]].iter_errors(one)
                ]
            faults += [f"{name}: {one['kind']}: {fault}" for fault in operator_faults(one)]
            faults += [f"{name}: {one['kind']}: {fault}" for fault in house_faults(one)]
    print("\n".join(faults) or f"{checked} objects of Ray's kinds in {len(everything)} sets are valid")
    if options.write and not faults:
        KEYS.write_text("\n".join(sorted(keys)) + "\n")
        RULES.write_text(rules())
    return bool(faults)


def kinds(path: Path) -> list[str]:
    return [yaml.safe_load(path.read_text())["spec"]["names"]["kind"]]


def validator(path: Path) -> Any:
    versions = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = [version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1"]
    return jsonschema.Draft7Validator(closed(schema))


def closed(schema: Any) -> Any:
    """A schema that refuses unknown keys, where the API server would drop them in silence."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(part) for key, part in schema.items()}
    if made.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        keeps = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get(
            "x-kubernetes-embedded-resource"
        )
        made["additionalProperties"] = bool(keeps)
    return made


def by_kubectl(overlay: Path) -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def by_name(objects: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


if __name__ == "__main__":
    sys.exit(main())
