from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from hub_server import Hub, serve
from ray_st.models.reranker.cross_encoder import CrossEncoder
from reranker_folders import save_classifier

MODEL = {"README.md", "config_sentence_transformers.json", "modules.json", "model.safetensors"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, in place of the one that nobody may reach."""
    found = Hub()
    server = serve(found)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        "ray_st.models.publishing.HfApi", lambda token: HfApi(endpoint=found.address, token=token)
    )
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_is_put_into_a_new_repository(tiny_model: Any, hub: Hub) -> None:
    url = tiny_model.push_to_hub("tiny", token="hf_mine", private=True)
    (commit,) = hub.commits
    assert url.startswith(f"{hub.address}/me/tiny/commit/")
    assert hub.repositories["me/tiny"]["visibility"] == "private"
    assert set(commit.files) >= MODEL
    assert (commit.message, commit.token) == ("Add new SentenceTransformer model", "hf_mine")
    with pytest.raises(HfHubHTTPError, match="409"):
        tiny_model.push_to_hub("tiny", token="hf_mine")


def test_a_reranker_is_put_there_with_its_card(hub: Hub, tmp_path: Path) -> None:
    model = CrossEncoder(save_classifier(tmp_path, "bert"), device="cpu")
    model.push_to_hub("tiny", token="hf_mine")
    (commit,) = hub.commits
    assert set(commit.files) >= MODEL
    assert commit.message == "Add new CrossEncoder model"
    assert b"CrossEncoder('me/tiny')" in commit.files["README.md"]


@pytest.mark.parametrize(("there", "replace"), [(True, False), (True, True), (False, False)])
def test_a_card_that_is_there_is_kept_unless_it_is_to_be_replaced(
    there: bool, replace: bool, tiny_model: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HfApi, "file_exists", lambda *_, **__: there)
    for _ in range(2):
        tiny_model.push_to_hub("us/tiny", token="hf_mine", exist_ok=True, replace_model_card=replace)
    assert all(("README.md" in commit.files) == (replace or not there) for commit in hub.commits)


def test_a_folder_in_place_of_the_model(tiny_model: Any, hub: Hub, tmp_path: Any) -> None:
    (tmp_path / "notes.txt").write_text("a note")
    tiny_model.save_to_hub(
        "tiny", organization="us", local_model_path=str(tmp_path), commit_message="A note", token="hf_mine"
    )
    (commit,) = hub.commits
    assert (commit.repository, commit.message, commit.files) == (
        "us/tiny",
        "A note",
        {"notes.txt": b"a note"},
    )


def test_what_cannot_be_put_there(tiny_model: Any, hub: Hub) -> None:
    with pytest.raises(ValueError, match="another owner than organization='them'"):
        tiny_model.save_to_hub("us/tiny", organization="them")
    with pytest.raises(ValueError, match="safetensors"):
        tiny_model.push_to_hub("us/other", token="hf_mine", safe_serialization=False)
    assert not hub.commits
