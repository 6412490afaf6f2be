from __future__ import annotations

from pathlib import Path

import pytest

from ray_st.cli.clusters.kustomize import build, patch
from ray_st.cli.run_checks import RunFileError

BASE = "kind: Kustomization\nresources: [things.yaml]\n"
THINGS = """
kind: Cluster
metadata: {name: one}
spec: {sizes: [1, 2], image: a}
---
kind: Job
metadata: {name: two}
spec: {cluster: {}}
"""
COPY = """
kind: Component
patches:
  - target: {kind: Cluster}
    patch: |-
      - {op: add, path: /metadata/annotations, value: {config.kubernetes.io/local-config: "true"}}
replacements:
  - source: {kind: Cluster, fieldPath: spec}
    targets: [{select: {kind: Job}, fieldPaths: [spec.cluster]}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "base/kustomization.yaml": BASE,
        "base/things.yaml": THINGS,
        "copy/kustomization.yaml": COPY,
        "grow/kustomization.yaml": "patches: [{target: {kind: Cluster}, patch: '[{op: add, path: /spec/sizes/-, value: 3}]'}]",
        "over/kustomization.yaml": "resources: [../base]\ncomponents: [../grow, ../copy]\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_components_change_what_came_before_them(folder: Path) -> None:
    (job,) = build(folder / "over")
    assert job == {
        "kind": "Job",
        "metadata": {"name": "two"},
        "spec": {"cluster": {"sizes": [1, 2, 3], "image": "a"}},
    }


def test_order_matters(folder: Path) -> None:
    (folder / "over/kustomization.yaml").write_text("resources: [../base]\ncomponents: [../copy, ../grow]\n")
    (job,) = build(folder / "over")
    assert job["spec"]["cluster"]["sizes"] == [1, 2]


def test_a_config_map_of_files(folder: Path) -> None:
    generator = "{name: run, files: [run.yaml], options: {disableNameSuffixHash: true, labels: {a: b}}}"
    (folder / "base/kustomization.yaml").write_text(f"configMapGenerator: [{generator}]")
    (folder / "base/run.yaml").write_text("# text\nas: it is\n")
    (made,) = build(folder / "base")
    assert made["data"] == {"run.yaml": "# text\nas: it is\n"}
    assert made["metadata"] == {"name": "run", "labels": {"a": "b"}}


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ({"op": "add", "path": "/a/b~1c", "value": 1}, {"x": [1, 2], "b/c": 1}),
        ({"op": "add", "path": "/a/x/0", "value": 0}, {"x": [0, 1, 2]}),
        ({"op": "replace", "path": "/a/x/1", "value": 5}, {"x": [1, 5]}),
        ({"op": "replace", "path": "/a/x", "value": []}, {"x": []}),
        ({"op": "remove", "path": "/a/x"}, {}),
        ({"op": "remove", "path": "/a/x/0"}, {"x": [2]}),
    ],
)
def test_patch(operation: dict, expected: dict) -> None:
    target = {"kind": "K", "metadata": {"name": "n"}, "a": {"x": [1, 2]}}
    patch(target, [operation])
    assert target["a"] == expected


@pytest.mark.parametrize("path", ["/a/y/z", "/a/x/7", "/a/x/z", "/a/y"])
def test_a_patch_that_leads_nowhere(path: str) -> None:
    target = {"kind": "K", "metadata": {"name": "n"}, "a": {"x": [1, 2]}}
    with pytest.raises(RunFileError, match=f"K n: the patch's path {path} leads nowhere"):
        patch(target, [{"op": "replace", "path": path, "value": 1}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nameprefix: a", r"unknown key 'nameprefix'"),
        ("resource: [a]", r"unknown key 'resource'; did you mean 'resources'"),
        ("resources: [gone.yaml]", r"gone\.yaml: cannot be read"),
        ("resources: [{", r"not valid YAML"),
        ("a: b\n---\nc: d", r"expected one YAML document, found 2"),
    ],
)
def test_refusals(folder: Path, text: str, message: str) -> None:
    (folder / "over/kustomization.yaml").write_text(text)
    with pytest.raises(RunFileError, match=message):
        build(folder / "over")
