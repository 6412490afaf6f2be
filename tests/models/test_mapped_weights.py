"""Weights that lie in files are found, named and opened again; changed ones are not taken for the file's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import torch
from safetensors.torch import load_file, save_file

from ray_st.models import mapped_weights
from ray_st.models.mapped_weights import (
    HubFile,
    MappedFiles,
    StoredFile,
    TensorFile,
    UnreachableWeights,
    remember,
)

LARGE, SMALL = torch.arange(5000.0).reshape(50, 100), torch.arange(7, dtype=torch.int64)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file({"large": LARGE, "small": SMALL}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def read(file: TensorFile, offset: int, like: torch.Tensor) -> torch.Tensor:
    new = torch.empty(0, dtype=like.dtype)
    return new.set_(file.map(), offset // like.element_size(), like.shape, like.stride())


def test_a_tensor_of_a_file_is_a_region_of_it(file: Path) -> None:
    opened = load_file(file)
    for tensor in (*opened.values(), opened["large"][3:5], opened["large"].T):
        region = MappedFiles().region_of(tensor)
        assert region is not None
        assert region.file.path == str(file)
        assert torch.equal(read(region.file, region.offset, tensor), tensor)


def test_a_changed_or_converted_tensor_is_not(file: Path) -> None:
    opened = load_file(file)
    elsewhere = [opened["large"].clone(), opened["large"].double(), torch.zeros(3), torch.zeros(0)]
    opened["large"][49, 99] = -1
    assert not any(MappedFiles().region_of(tensor) for tensor in (opened["large"], *elsewhere))


def test_what_is_written_to_a_mapping_stays_in_the_process(file: Path) -> None:
    described = TensorFile.at(str(file))
    offset = os.path.getsize(file) - SMALL.nbytes - LARGE.nbytes
    read(described, offset, LARGE).zero_()
    assert torch.equal(load_file(file)["large"], LARGE)


def test_a_tensor_of_a_deleted_file_has_no_region(file: Path) -> None:
    opened = load_file(file)
    file.unlink()
    assert MappedFiles().region_of(opened["large"]) is None


def test_a_file_that_is_missing_is_named_with_the_node(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = TensorFile.at(str(file))
    monkeypatch.setattr("socket.gethostname", lambda: "worker-7")
    file.unlink()
    with pytest.raises(
        UnreachableWeights, match=r"node worker-7 cannot open .*model\.safetensors.*every node"
    ):
        described.map()


@pytest.mark.parametrize("name", ["large", "small"])
def test_a_file_that_has_changed_is_refused(file: Path, name: str) -> None:
    described = TensorFile.at(str(file))
    tensors = {"large": LARGE, "small": SMALL}
    save_file({**tensors, name: tensors[name] + 1}, file)
    with pytest.raises(UnreachableWeights, match="not the file that the driver opened"):
        described.map()


def hub_cache(folder: Path, file: Path) -> Path:
    """A file in the Hub's cache; returns the link that a program opens."""
    model = folder / "models--someone--some-model"
    blob = model / "blobs" / ("ab" * 32)
    link = model / "snapshots" / ("c" * 40) / "model.safetensors"
    blob.parent.mkdir(parents=True)
    link.parent.mkdir(parents=True)
    shutil.copy(file, blob)
    link.symlink_to(blob)
    return link


def test_a_file_in_the_hubs_cache_is_known_by_its_name_there(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = load_file(hub_cache(tmp_path / "here", file))
    region = MappedFiles().region_of(opened["large"])
    assert region is not None
    assert region.file.origin == HubFile("someone/some-model", "c" * 40, "model.safetensors")

    def fetched(repo: str, name: str, revision: str, cache_dir: str | None) -> str:
        assert (repo, name, revision) == ("someone/some-model", "model.safetensors", "c" * 40)
        return str(hub_cache(tmp_path / "there", file))

    monkeypatch.setattr(mapped_weights, "hf_hub_download", fetched)
    shutil.rmtree(tmp_path / "here")
    assert torch.equal(read(region.file, region.offset, LARGE), LARGE)


def test_a_file_that_left_the_hubs_cache_has_no_region(file: Path, tmp_path: Path) -> None:
    opened = load_file(hub_cache(tmp_path / "here", file))
    shutil.rmtree(tmp_path / "here")
    assert MappedFiles().region_of(opened["large"]) is None


def test_a_file_that_the_hub_does_not_give_is_named(file: Path, tmp_path: Path) -> None:
    described = TensorFile.at(str(hub_cache(tmp_path / "here", file).resolve()))
    shutil.rmtree(tmp_path / "here")
    with pytest.raises(UnreachableWeights, match=r"some-model cannot be fetched from the Hub.*HF_TOKEN"):
        described.map()


def test_a_copy_from_an_object_store_is_fetched_again_where_it_is_missing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    copy = tmp_path / "copy.safetensors"
    shutil.copy(file, copy)
    remember(copy, StoredFile(pafs.LocalFileSystem(), str(file)))
    region: Any = MappedFiles().region_of(load_file(copy)["large"])
    assert region is None  # the mapping ended with its tensor
    described = TensorFile.at(str(copy))
    copy.unlink()
    for _ in range(2):  # the second finds what the first fetched
        assert described.map().nbytes() == os.path.getsize(file)
        assert len(list(tmp_path.glob("ray_st-weights-*/*.safetensors"))) == 1
