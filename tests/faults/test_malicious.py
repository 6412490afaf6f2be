"""Model folders and run files that mean harm are refused before they can do any.

Pickles, code and paths that lead outside are tested where they are read, in tests/models; here is the rest.
"""

from __future__ import annotations

import json
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from safetensors import SafetensorError

from ray_st import SentenceTransformer
from ray_st.cli.yaml_text import YamlError, load_yaml
from ray_st.models.folder_files import ModelFolderError


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 1 << 60),
        struct.pack("<Q", 99_000_000) + b"{",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 90)
        + json.dumps({"w": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}})
        .encode()
        .ljust(90),
    ],
    ids=["longer than any file", "longer than this file", "no object", "a shape without bounds"],
)
def test_weights_with_a_bad_header(folder: Path, header: bytes) -> None:
    (folder / "model.safetensors").write_bytes(header)
    with pytest.raises((ModelFolderError, SafetensorError, OSError)):
        SentenceTransformer(folder, device="cpu")


def test_deeply_nested_json(folder: Path) -> None:
    (folder / "modules.json").write_text("[" * 100_000)
    with pytest.raises((ModelFolderError, RecursionError)):
        SentenceTransformer(folder, device="cpu")


def test_archives_are_not_opened(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as packed:
        packed.writestr("../../escaped.txt", "x")
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(folder / "modules.json", arcname="../../escaped.txt")
    for name in ("model.zip", "model.tar.gz"):
        with pytest.raises((ValueError, OSError)):
            SentenceTransformer(str(tmp_path / name), device="cpu")
    assert not list(tmp_path.parents[1].glob("escaped.txt"))


def test_aliases_cannot_blow_up() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(YamlError, match="aliases blow it up"):
        load_yaml("\n".join(lines))


def test_an_alias_to_itself_has_an_end() -> None:
    with pytest.raises(YamlError, match="an alias holds itself"):
        load_yaml("a: &a [*a]")


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [true]", "!!python/name:os.system", "!own {}"]
)
def test_tags_make_no_objects(tag: str) -> None:
    with pytest.raises(YamlError):
        load_yaml(f"a: {tag}")
