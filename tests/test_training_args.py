"""Arguments: written down without secrets and read again, helpers, command lines, and what holds on the driver."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.training_args import ParallelMode

from ray_st.training_args import SentenceTransformerTrainingArguments


def make(**given: Any) -> Any:
    return SentenceTransformerTrainingArguments(output_dir="out", **given)


def own_sampler(*args: Any, **kwargs: Any) -> None:
    """Stands for a batch sampler."""


SECRETS: dict[str, Any] = {
    "hub_token": "hf_one",
    "accelerator_config": {"gradient_accumulation_kwargs": {"api_key": "hf_two"}},
    "lr_scheduler_kwargs": {"nested": [{"password": "hf_three"}]},
}


@pytest.mark.parametrize(
    "written",
    [repr, str, lambda args: args.to_json_string(), lambda args: str(args.to_dict()), lambda args: str(args.to_sanitized_dict())],
)  # fmt: skip
def test_no_secret_is_written(written: Any) -> None:
    text = written(make(**SECRETS))
    assert "hf_" not in text
    assert "<HUB_TOKEN>" in text
    assert "<PASSWORD>" in text


def test_a_subclass_that_is_a_dataclass_does_not_show_the_token() -> None:
    @dataclasses.dataclass
    class Mine(SentenceTransformerTrainingArguments):
        more: int = 1

    text = repr(Mine("out", hub_token="hf_one", more=2))
    assert "hf_one" not in text
    assert "more=2" in text


def test_what_is_hidden_is_still_there() -> None:
    args = pickle.loads(pickle.dumps(make(**SECRETS)))
    assert args.hub_token == "hf_one"
    assert args.lr_scheduler_kwargs == SECRETS["lr_scheduler_kwargs"]


def test_written_and_read_again() -> None:
    given: dict[str, Any] = {
        "batch_sampler": "no_duplicates", "multi_dataset_batch_sampler": "round_robin", "bad_rows": "skip",
        "prompts": {"a": {"b": "query: "}}, "dataset_weights": {"a": 1.0}, "dataset_batch_sizes": {"a": 4},
        "learning_rate_mapping": {"embeddings": 1e-3}, "warmup_ratio": 0.1, "logging_dir": "logs",
        "evaluation_strategy": "steps", "eval_steps": 5, "torch_compile_mode": "default", "tf32": True, "bf16": True,
    }  # fmt: skip
    args = make(hub_token="hf_one", **given)
    text = args.to_json_string()
    again = SentenceTransformerTrainingArguments(**json.loads(text))
    assert again.to_json_string() == text
    assert again.hub_token is None
    assert dataclasses.replace(args).to_json_string() == text
    assert pickle.loads(pickle.dumps(args)).to_json_string() == text
    plain = dataclasses.asdict(args)
    assert plain["batch_sampler"] == "no_duplicates"
    assert (json.loads(text)["batch_sampler"], json.loads(text)["eval_strategy"]) == (
        "no_duplicates",
        "steps",
    )


def test_callables_are_written_by_name() -> None:
    assert (
        make(batch_sampler=own_sampler).to_dict()["batch_sampler"].endswith("test_training_args.own_sampler")
    )


def test_it_writes_what_transformers_writes() -> None:
    theirs = TrainingArguments(output_dir="out", use_cpu=True)
    ours = make(use_cpu=True, report_to="none")
    mine = ours.to_dict()
    assert {name: mine[name] for name in theirs.to_dict()} == {
        **theirs.to_dict(),
        "dataloader_pin_memory": True,  # known on the worker
    }
    assert ours.to_sanitized_dict()["train_batch_size"] == 8


@pytest.mark.parametrize(
    ("helper", "given", "seen"),
    [
        ("set_training", {"learning_rate": 1e-4, "batch_size": 32}, {"learning_rate": 1e-4, "do_train": True, "train_batch_size": 32}),
        ("set_training", {"gradient_checkpointing": True}, {"gradient_checkpointing": True, "activation_checkpointing": True}),
        ("set_evaluate", {"strategy": "steps", "steps": 100}, {"eval_steps": 100, "do_eval": True, "eval_delay": 0}),
        ("set_testing", {"batch_size": 32}, {"per_device_eval_batch_size": 32, "do_predict": True}),
        ("set_save", {"strategy": "steps", "steps": 100}, {"save_steps": 100, "save_strategy": "steps"}),
        ("set_logging", {"strategy": "steps", "steps": 100}, {"logging_steps": 100}),
        ("set_push_to_hub", {"model_id": "me/awesome-model"}, {"hub_model_id": "me/awesome-model", "push_to_hub": True}),
        ("set_optimizer", {"name": "adamw_torch", "beta1": 0.8}, {"optim": "adamw_torch", "adam_beta1": 0.8}),
        ("set_lr_scheduler", {"name": "cosine", "warmup_ratio": 0.05}, {"warmup_ratio": 0.05, "lr_scheduler_type": "cosine"}),
        ("set_dataloader", {"train_batch_size": 16, "eval_batch_size": 64}, {"per_device_train_batch_size": 16, "eval_batch_size": 64}),
        ("set_dataloader", {"sampler_seed": 3, "in_order": False}, {"data_seed": 3, "dataloader_in_order": False}),
    ],
)  # fmt: skip
def test_helpers(helper: str, given: dict[str, Any], seen: dict[str, Any]) -> None:
    args = make()
    assert getattr(args, helper)(**given) is args
    assert {name: getattr(args, name) for name in seen} == seen
    args.check()


def test_helpers_say_what_they_cannot_keep() -> None:
    with pytest.warns(UserWarning, match="global_train_batch_size=64 no longer holds"):
        args = make(global_train_batch_size=64).set_training(batch_size=4)
    assert args.global_batch_sizes(2, [""]) == {"": 8}
    with pytest.warns(UserWarning, match="jit_mode has no effect"):
        make().set_evaluate(jit_mode=True)


def test_check_sees_what_was_set_afterwards() -> None:
    args = make()
    args.learning_rate_mapping = {"(": 1.0}
    with pytest.raises(ValueError, match=r"'\(' is not a valid regular expression"):
        args.check()
    args = make(load_best_model_at_end=True, eval_strategy="steps").set_save(strategy="epoch")
    with pytest.raises(ValueError, match="save and eval strategy to match"):
        args.check()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": "fast"}, "learning_rate must be a number; got 'fast' .str."),
        ({"learning_rate": "1e-5"}, "learning_rate must be a number; got '1e-5'"),
        ({"per_device_train_batch_size": 2.5}, "per_device_train_batch_size must be a whole number; got 2.5"),
        ({"per_gpu_train_batch_size": "8"}, "must be a whole number or None; got '8'"),
        ({"num_train_epochs": None}, "num_train_epochs must be a number; got None"),
        ({"warmup_ratio": "0.1"}, "warmup_ratio must be a number"),
        ({"seed": True}, "seed must be a whole number; got True"),
        ({"bf16": 1}, "bf16 must be True or False; got 1"),
        ({"ledger": "no"}, "ledger must be True or False; got 'no'"),
        ({"run_name": 7}, "run_name must be text or None; got 7"),
        ({"hub_token": 1234}, "hub_token must be text or None; got <HUB_TOKEN>"),
        ({"window_rows": True}, "window_rows must be a whole number or None; got True"),
        ({"prompts": 5}, "prompts must be"),
        ({"token_cache": True}, "token_cache must be a folder, its URI, None for .* got True"),
        ({"token_cache": ""}, "token_cache must be a folder, .* got ''"),
        ({"token_cache": 0}, "token_cache must be a folder, .* got 0"),
        ({"token_cache_bytes": 0}, "token_cache_bytes must be a positive integer; got 0"),
    ],
)
def test_wrong_types(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**given)


def test_values_that_are_as_good() -> None:
    args = make(
        per_device_train_batch_size=np.int64(4),
        learning_rate=np.float32(0.5),
        warmup_steps=3,
        eval_delay=None,
        ddp_timeout=None,
    )
    assert (args.per_device_train_batch_size, args.learning_rate, args.eval_delay) == (4, 0.5, 0)
    assert args.ddp_timeout == 1800
    assert SentenceTransformerTrainingArguments(Path("out"), logging_dir=Path("logs")).output_dir == "out"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate_mapping": {"a": "fast"}}, "must be a number"),
        ({"learning_rate_mapping": "a=1"}, "learning_rate_mapping must be a dict, or one as JSON; got 'a=1'"),
        ({"dataset_batch_sizes": {"a": 0}}, "must be a positive integer"),
        ({"collisions": "forget"}, "collisions must be one of"),
        ({"fp16": True, "bf16": True}, "At most one of fp16 and bf16"),
    ],
)
def test_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**given)


def test_a_command_line() -> None:
    parser = HfArgumentParser(SentenceTransformerTrainingArguments)
    line = """--output_dir out --batch_sampler no_duplicates --multi_dataset_batch_sampler round_robin --bad_rows skip
        --learning_rate_mapping {"model":0.001} --dataset_weights {"a":2} --prompts query: --ledger --eval_on workers"""
    (args,) = parser.parse_args_into_dataclasses(line.split(), look_for_args_file=False)
    assert args == make(
        batch_sampler="no_duplicates", multi_dataset_batch_sampler="round_robin", bad_rows="skip",
        learning_rate_mapping={"model": 0.001}, dataset_weights={"a": 2}, prompts="query:", ledger=True,
    )  # fmt: skip
    assert parser.parse_dict(args.to_dict())[0] == args


def test_a_token_cache_of_a_path_and_of_a_command_line() -> None:
    assert make(token_cache=Path("folder")).token_cache == "folder"
    parser = HfArgumentParser(SentenceTransformerTrainingArguments)
    for word, value in (("False", False), ("s3://bucket/tokens", "s3://bucket/tokens")):
        (args,) = parser.parse_args_into_dataclasses(["--output_dir", "out", "--token_cache", word])
        assert args.token_cache == value
    assert make().token_cache is None


def test_figures_are_reported_wherever_they_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import integrations

    monkeypatch.setattr(integrations, "get_available_reporting_integrations", lambda: ["mlflow", "wandb"])
    assert make().report_to == make(report_to="all").report_to == ["mlflow", "wandb"]
    assert make(report_to="wandb").report_to == ["wandb"]
    assert make(report_to="none").report_to == []


@pytest.fixture
def forbidden_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has a GPU, which nobody may touch."""

    def touched(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the GPU was touched")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name in ("set_device", "init", "_lazy_init", "get_device_properties", "get_device_capability"):
        monkeypatch.setattr(torch.cuda, name, touched)


@pytest.mark.usefixtures("forbidden_gpu")
@pytest.mark.parametrize(
    "given", [{}, {"bf16": True, "tf32": True}, {"fp16": True, "torch_compile": True}, {"fsdp": True}]
)
def test_the_driver_touches_no_device(given: dict[str, Any]) -> None:
    made = make(log_level="error", log_level_replica="debug", **given)
    for args in (made, copy.copy(made), pickle.loads(pickle.dumps(made))):
        assert (args.device, args.n_gpu, args.parallel_mode) == (
            torch.device("cpu"),
            0,
            ParallelMode.NOT_PARALLEL,
        )
        assert (args.world_size, args.process_index, args.local_process_index) == (1, 0, 0)
        assert args.should_log
        assert args.should_save
        assert args.get_process_log_level() == 40
        assert args.ddp_timeout_delta.total_seconds() == 1800
        with args.main_process_first():
            pass
        assert not args.use_cpu
        assert args.dataloader_pin_memory
        assert {name: getattr(args, name) for name in given} == given
    assert not torch.distributed.is_initialized()


def test_a_driver_without_gpu_describes_runs_that_need_one(tiny_model: Any, tmp_path: Path) -> None:
    from ray_st import SentenceTransformerTrainer

    for given in ({"fp16": True}, {"bf16": True, "tf32": True}, {"torch_compile": True}):
        args = SentenceTransformerTrainingArguments(output_dir=str(tmp_path), **given)
        assert SentenceTransformerTrainer(tiny_model, args).args is args


def test_a_worker_settles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "elsewhere")
    made = make(
        bf16=True,
        torch_compile_mode="default",
        global_train_batch_size=12,
        logging_dir=str(tmp_path / "logs"),
    )
    args = copy.copy(made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        args.settle(str(tmp_path))
    on_cpu = not torch.cuda.is_available()
    assert (args.use_cpu, args.dataloader_pin_memory) == (on_cpu, not on_cpu)
    assert (args.output_dir, args.mixed_precision, args.torch_compile_backend) == (
        str(tmp_path),
        "bf16",
        "inductor",
    )
    assert (args.per_device_train_batch_size, args.global_batch_sizes(1, [""])) == (12, {"": 12})
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "logs")
    assert (made.output_dir, made.mixed_precision) == ("out", "no")
