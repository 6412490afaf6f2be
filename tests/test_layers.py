"""Arrows only point down: reads the imports of every file in ray_st and fails on one that points up or sideways."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A part may import parts with a smaller number, and itself.
LAYERS = {
    "cli": 7,
    "legacy": 7,
    "testing": 7,
    "trainer": 6,
    "cross_encoder": 6,
    "model_trainer": 5,
    "tune": 6,
    "runtime": 4,
    "training": 3,
    "study": 3,
    "datasets": 3,
    "models": 2,
    "losses": 2,
    "data": 2,
    "evaluation": 2,
    "mining": 2,
    "readers": 1,
    "training_args": 1,
    "world": 1,
    "similarity_functions": 1,
    "util": 0,
    "_version": 0,
}
# Values and small functions at the bottom may use each other.
FRIENDS = {"training_args", "world", "similarity_functions"}
RAY = {"runtime"}


def part_of(module: str) -> str:
    """`ray_st.losses.embed` -> `losses`; the root package -> ``."""
    return module.partition("ray_st")[2].lstrip(".").partition(".")[0]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    """Every module that a file names: imports anywhere, `torch.distributed` as an attribute, tables of lazy parts."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=base, names=names, level=level):
                up = module.split(".")[: -level + is_package or None] if level else []
                full = ".".join([*up, *([base] if base else [])])
                yield from (f"{full}.{alias.name}" for alias in names)
            case ast.Attribute(value=ast.Name(id="torch"), attr="distributed"):
                yield "torch.distributed"
            case ast.Constant(value=str(text)) if re.fullmatch(r"ray_st(\.\w+)+", text):
                yield text


def is_door(path: Path) -> bool:
    """A file that only re-exports what the pages promise under that name: a top-level one, and ``util``'s own."""
    if path == ROOT / "ray_st/util/__init__.py":
        return True
    return path.parent == ROOT / "ray_st" and path.stem not in LAYERS


def faults(path: Path, source: str) -> list[str]:
    """What a file imports although its place forbids it."""
    module = module_of(path)
    mine = part_of(module)
    found = list(imports(ast.parse(source), module, path.name == "__init__.py"))
    wrong = [name for name in found if part_fault(mine, is_door(path), name)]
    if mine not in RAY:
        wrong += [name for name in found if name.split(".")[0] == "ray"]
    if mine != "training":
        wrong += [name for name in found if name.startswith("torch.distributed")]
    return wrong + [name for name in found if name.split(".")[0] == "sentence_transformers"]


def part_fault(mine: str, door: bool, name: str) -> bool:
    if name.split(".")[0] != "ray_st":
        return False
    other = part_of(name)
    if other == mine or door:
        return False
    if other not in LAYERS:  # the root package or a door: they would hide an arrow
        return LAYERS[mine] < LAYERS["cli"]
    return LAYERS[other] >= LAYERS[mine] and not {mine, other} <= FRIENDS


FILES = sorted((ROOT / "ray_st").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    assert faults(path, path.read_text()) == []


def test_every_part_has_its_place() -> None:
    packages = {path.parent.name for path in ROOT.glob("ray_st/*/__init__.py")}
    assert packages <= set(LAYERS)


@pytest.mark.parametrize("path", [path for path in FILES if is_door(path)], ids=lambda path: path.name)
def test_doors_only_re_export(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    assert not [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def test_one_file_and_one_room_hold_all_collectives() -> None:
    training = [path for path in FILES if part_of(module_of(path)) == "training"]
    using = {
        "sharding" if path.parent.name == "sharding" else path.name
        for path in training
        if any(
            name.startswith("torch.distributed") for name in imports(ast.parse(path.read_text()), "", False)
        )
    }
    # What ranks say to each other, and the wrapper around PyTorch's FSDP, which says it by itself.
    assert using == {"collectives.py", "sharding"}


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("losses/cosent.py", "from ray_st.models import Pooling"),
        ("losses/cosent.py", "from ray_st import SentenceTransformer"),
        ("losses/cosent.py", "from ..models.pooling import Pooling"),
        ("losses/cosent.py", "def f():\n    import torch.distributed as dist"),
        ("losses/cosent.py", "import torch\nx = torch.distributed.get_rank()"),
        ("training/strategies/step_module.py", "from ray import train"),
        ("data/rows.py", "import ray.data"),
        ("util/lazy.py", "from ray_st.world import World"),
        ("runtime/run.py", "from ray_st.trainer import SentenceTransformerTrainer"),
        ("cli/train.py", "import sentence_transformers"),
        ("cli/train.py", "from ray_st.testing import LossConformance"),
        ("losses/__init__.py", "TABLE = {'Pooling': 'ray_st.models.pooling'}"),
    ],
)
def test_the_test_sees(file: str, source: str) -> None:
    assert faults(ROOT / "ray_st" / file, source)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("losses/cosent.py", "from .base import Loss\nfrom ray_st.util import cos_sim"),
        ("losses/__init__.py", "from .base import Loss"),
        ("training/gather.py", "import torch.distributed as dist"),
        ("runtime/run.py", "import ray\nfrom ray_st.training.strategies.step_module import step"),
        ("cli/train.py", "from ray_st import SentenceTransformer"),
    ],
)
def test_the_test_allows(file: str, source: str) -> None:
    assert faults(ROOT / "ray_st" / file, source) == []
