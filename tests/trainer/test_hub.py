"""Pushing to a hub: what arrives there, when, and what becomes of a run that it refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants
from ray.train import ScalingConfig

from hub_server import Hub, serve
from ray_st.training.callbacks.hub_upload import CheckpointUpload

MODEL = {"README.md", "config_sentence_transformers.json", "modules.json", "model.safetensors"}
STATE = {"optimizer.pt", "scheduler.pt", "rng_state_0.pth", "trainer_state.json"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, in place of the one that nobody may reach."""
    found = Hub()
    server = serve(found)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", found.address)
    monkeypatch.setattr("transformers.utils.hub._hf_api", HfApi(endpoint=found.address))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def pushing(strategy: str, **more: Any) -> dict[str, Any]:
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    token = {"push_to_hub": True, "hub_token": "hf_mine", "hub_always_push": True}
    return {**saving, **token, "hub_model_id": "us/tiny", "hub_strategy": strategy, **more}


@pytest.mark.parametrize(
    ("strategy", "folders"),
    [
        ("end", None),
        ("every_save", []),
        ("checkpoint", ["last-checkpoint"]),
        ("all_checkpoints", ["checkpoint-1", "checkpoint-2"]),
    ],
)
def test_strategies(make: Any, sent: Any, hub: Hub, strategy: str, folders: list[str] | None) -> None:
    running = sent(make(arguments=pushing(strategy)))
    running.train()
    found = hub.files("us/tiny")
    if folders is None:
        assert not found
        return
    assert found >= MODEL
    assert not STATE & found
    for folder in folders:
        assert {f"{folder}/{name}" for name in MODEL | STATE} <= found
    assert {path.partition("/")[0] for path in found if "checkpoint" in path} == set(folders)
    messages = {commit.message for commit in hub.commits}
    assert {"Training in progress, step 1", "Training in progress, step 2"} <= messages
    assert {commit.token for commit in hub.commits} == {"hf_mine"}
    assert b"hf_mine" not in b"".join(part for commit in hub.commits for part in commit.files.values())


def test_the_trained_model(make: Any, hub: Hub) -> None:
    trainer = make(arguments={"hub_private_repo": True, "hub_token": "hf_mine"})
    trainer.push_to_hub("the end", token="hf_other", model_name="A fine model", revision="branch")
    (commit,) = hub.commits
    assert (commit.repository, commit.revision, commit.message) == ("me/out", "branch", "the end")
    assert commit.token == "hf_other"
    assert hub.repositories["me/out"]["visibility"] == "private"
    assert set(commit.files) >= MODEL
    assert not STATE & set(commit.files)
    assert b"A fine model" in commit.files["README.md"]
    assert trainer.push_to_hub(blocking=False).result().commit_url.startswith(f"{hub.address}/me/out")


@pytest.mark.usefixtures("fresh_accelerator")
def test_encoded_rows_stay_here(make: Any, hub: Hub, tmp_path: Path) -> None:
    for place in (None, str(tmp_path / "out" / "tokens")):
        arguments = {"token_cache": place, "hub_token": "hf_mine"}
        trainer = make(arguments=arguments, scaling_config=ScalingConfig(num_workers=0))
        trainer.train()
        trainer.push_to_hub()
    assert len(list((tmp_path / "out").glob("*/*.arrow"))) == 2
    sent = {path for commit in hub.commits for path in commit.files}
    assert sent >= MODEL
    assert not [path for path in sent if "token-cache" in path or "tokens/" in path]


def test_saving_the_model_pushes_it_where_that_is_asked_for(make: Any, hub: Hub) -> None:
    trainer = make(arguments=pushing("end", hub_model_id=None, push_to_hub_organization="them"))
    trainer.save_model()
    assert [(commit.repository, commit.message) for commit in hub.commits] == [("them/out", "Model save")]


def test_a_worker_pushes_to_the_repository_of_the_drivers_folder(make: Any, sent: Any, hub: Hub) -> None:
    running = sent(make(arguments=pushing("every_save", hub_model_id=None)))
    running.train()
    assert set(hub.repositories) == {"me/out"}
    assert {commit.repository for commit in hub.commits} == {"me/out"}


def test_a_hub_that_refuses_does_not_end_the_run(make: Any, sent: Any, hub: Hub, capsys: Any) -> None:
    hub.refuses = True
    running = sent(make(arguments=pushing("every_save")))
    running.train()
    assert running.worker.store.steps() == [1, 2]
    assert "checkpoint of step 2 could not be pushed to the Hub" in capsys.readouterr().out


def test_an_upload_that_is_not_done_is_waited_for_or_skipped(
    make: Any, sent: Any, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = sent(make(arguments=pushing("every_save", hub_always_push=False)))
    monkeypatch.setattr(CheckpointUpload, "pushing", lambda self: {1})  # as if it never got done
    running.train()
    assert not hub.commits
