from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from ray_st.models import model_hub as hub
from ray_st.models.folder_files import ModelFolderError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Stands in for the Hub: knows organisation/known only."""
    seen: list[dict[str, Any]] = []

    def fetch(name: str, **options: Any) -> str:
        seen.append({"name": name, **options})
        if name == "organisation/known" or name == "bert-base-uncased":
            return str(tmp_path)
        raise LocalEntryNotFoundError(f"{name} is not here\nmore")

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    return seen


def test_a_folder_is_its_own_answer(
    tmp_path: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.find_folder(tmp_path) == tmp_path
    monkeypatch.chdir(tmp_path.parent)
    assert hub.find_folder(tmp_path.name) == Path(tmp_path.name)
    assert calls == []


def test_a_name_is_fetched_without_pickles_and_code(tmp_path: Path, calls: list[Any]) -> None:
    assert hub.find_folder("organisation/known", revision="v1", cache_folder="c", token="t") == tmp_path
    assert calls[0]["revision"] == "v1"
    assert (calls[0]["cache_dir"], calls[0]["token"]) == ("c", "t")
    wanted = calls[0]["allow_patterns"]
    assert "*.safetensors" in wanted
    assert not {"*.bin", "*.py", "*.pt"} & set(wanted)
    hub.find_folder("organisation/known", trust_remote_code=True)
    assert "*.py" in calls[1]["allow_patterns"]


def test_a_bare_name_is_looked_for_at_home_first(tmp_path: Path, calls: list[Any]) -> None:
    assert hub.find_folder("bert-base-uncased") == tmp_path
    assert [call["name"] for call in calls] == [
        "sentence-transformers/bert-base-uncased",
        "bert-base-uncased",
    ]


def test_cache_from_the_environment(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", "somewhere")
    hub.find_folder("organisation/known")
    assert calls[0]["cache_dir"] == "somewhere"


def test_nothing_found_offline(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError) as error:
        hub.find_folder("organisation/unknown", cache_folder=str(tmp_path))
    text = str(error.value)
    assert "No model 'organisation/unknown': there is no such folder in" in text
    assert (
        f"{tmp_path} holds no organisation/unknown. The Hub was not asked because HF_HUB_OFFLINE is set"
        in text
    )


def test_nothing_found_with_local_files_only(calls: list[Any]) -> None:
    with pytest.raises(ModelFolderError, match="not asked because local_files_only is set"):
        hub.find_folder("organisation/unknown", local_files_only=True)


def test_nothing_found_online(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ModelFolderError, match=r"the Hub has none .*: unknown is not here\)"):
        hub.find_folder("unknown")


@pytest.mark.parametrize("name", ["/no/such/folder", "./a/b/c", "a/b/c", "a b"])
def test_what_cannot_be_a_name(name: str, calls: list[Any]) -> None:
    with pytest.raises(
        ModelFolderError, match=r"A model is a folder or a name on the Hub; .* does not exist"
    ):
        hub.find_folder(name)
    assert calls == []


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    with pytest.raises(ModelFolderError, match="is a file"):
        hub.find_folder(tmp_path / "model")


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("cache/models--org--name/snapshots/0a1b", ("org/name", "0a1b")),
        ("cache/models--bert/snapshots/0a1b", ("bert", "0a1b")),
        ("models--org--name/other/0a1b", None),
        ("home/me/model", None),
        ("/", None),
    ],
)
def test_where_a_folder_came_from(folder: str, source: tuple[str, str] | None) -> None:
    assert hub.source_of(Path(folder)) == source
