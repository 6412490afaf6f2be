"""What may be said of sharded weights, and what is refused by name."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from ray_st import SentenceTransformerTrainingArguments
from ray_st.training_args import sharding_options as described

BY_SIZE = "SIZE_BASED_WRAP"


def make(**given: Any) -> Any:
    return SentenceTransformerTrainingArguments("out", **given)


def sharded(**config: Any) -> Any:
    return make(fsdp=True, fsdp_config=config)


def test_settings_that_are_followed() -> None:
    assert make(fsdp=True).fsdp_plugin_args is None  # nothing for accelerate to do
    assert sharded(reshard_after_forward=False, version=2, cpu_offload=False).fsdp_config
    assert sharded(transformer_layer_cls_to_wrap="BertLayer").fsdp_config[
        "transformer_layer_cls_to_wrap"
    ] == ["BertLayer"]
    assert sharded(fsdp_min_num_params=10, auto_wrap_policy=BY_SIZE).fsdp_config["min_num_params"] == 10
    assert make(fsdp="shard_grad_op auto_wrap").fsdp_config["reshard_after_forward"] is False


def test_shards_within_nodes() -> None:
    for args in (sharded(sharding_strategy="HYBRID_SHARD"), make(fsdp="hybrid_shard auto_wrap")):
        assert args.fsdp is True
        assert args.fsdp_config["sharding_strategy"] == "HYBRID_SHARD"
        args.set_save(steps=7)  # completes the arguments again
        assert args.fsdp_config["sharding_strategy"] == "HYBRID_SHARD"


def test_activations_are_computed_again_if_the_settings_say_so() -> None:
    assert sharded(activation_checkpointing=True).activation_checkpointing
    assert not sharded(activation_checkpointing=False).activation_checkpointing


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"cpu_offload": True}, "cpu_offload can only be False here, as it was never tried"),
        ({"version": 1}, "version can only be 2 here, as PyTorch's FSDP2 is used; got 1"),
        ({"state_dict_type": "SHARDED_STATE_DICT"}, "state_dict_type can only be 'FULL_STATE_DICT' here"),
        ({"cpu_ram_efficient_loading": True}, "cpu_ram_efficient_loading can only be False"),
        ({"xla": True}, "xla can only be False here, as there are no XLA workers"),
        ({"use_orig_params": True}, "use_orig_params is not a supported setting of FSDP2.* Leave it out"),
        ({"reshard_after_forward": "yes"}, "reshard_after_forward must be true or false; got 'yes'"),
        ({"sharding_strategy": "NO_SHARD"}, "sharding_strategy must be .* got 'NO_SHARD'"),
        ({"min_num_params": 5}, "min_num_params, more than 0, and auto_wrap_policy=.* go together"),
        ({"auto_wrap_policy": BY_SIZE}, "min_num_params, more than 0, and auto_wrap_policy=.* go together"),
    ],
)
def test_settings_that_are_not_followed(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^fsdp_config: {message}"):
        sharded(**config)


@pytest.mark.parametrize("given", [{"torch_compile": True}, {"fp16": True}])
def test_what_does_not_go_together_with_it(given: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=rf"^{next(iter(given))} cannot be used with fsdp: .* Leave one of them out"
    ):
        make(fsdp=True, **given)


def test_optimizers_that_were_not_tried_are_refused() -> None:
    with pytest.raises(ValueError, match=r'^optim="adafactor" was never tried with fsdp, .* Use one of \['):
        make(fsdp=True, optim="adafactor")
    for optim in ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop"):
        assert make(fsdp=True, optim=optim).fsdp


def test_settings_without_fsdp_say_that_they_have_no_effect() -> None:
    with pytest.warns(UserWarning, match=r"^fsdp_config has no effect without fsdp=True"):
        make(fsdp_config={"reshard_after_forward": False})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sharded(reshard_after_forward=False)


def test_deepspeed_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(described, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"^deepspeed needs the package deepspeed, .*: pip install deepspeed"
    ):
        make(deepspeed={"train_batch_size": "auto"})


def test_deepspeed_is_passed_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(described, "find_spec", lambda name: object())
    config = {"zero_optimization": {"stage": 2}}
    (tmp_path / "two.json").write_text(json.dumps(config))
    for given in (config, json.dumps(config), str(tmp_path / "two.json")):
        assert make(deepspeed=given, save_only_model=True).deepspeed == config
    assert make(deepspeed=config, save_strategy="no").deepspeed_plugin is None  # the driver touches nothing
    with pytest.raises(ValueError, match=r"optimizer's state cannot be saved, .* Give save_only_model=True"):
        make(deepspeed=config)
    with pytest.raises(ValueError, match=r"^deepspeed: stage 3 of ZeRO .* Use stage 2, or fsdp=True"):
        make(deepspeed={"zero_optimization": {"stage": 3}}, save_strategy="no")
    with pytest.raises(ValueError, match=r"^fsdp and deepspeed cannot be used together"):
        make(deepspeed=config, save_strategy="no", fsdp=True)
