"""A plain folder of transformers whose encoder, configuration and layers are Python files in it ("remote code")."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

CONFIGURATION = """
from transformers import PreTrainedConfig

class TinyConfig(PreTrainedConfig):
    model_type = "tiny_remote"

    def __init__(self, vocab_size=100, hidden_size=16, **options):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        super().__init__(**options)
"""
MODELING = """
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from .configuration_tiny import TinyConfig

class TinyModel(PreTrainedModel):
    config_class = TinyConfig
    base_model_prefix = "tiny"

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, return_dict=True, **options):
        from .bend_tiny import bend  # imported when it is first needed
        return BaseModelOutput(last_hidden_state=bend(self.query(self.words(input_ids))))
"""
BEND = """
def bend(x):
    return x + x.tanh()
"""
WORDS = 200  # ids that the embedding has room for
CODE = {"configuration_tiny.py": CONFIGURATION, "modeling_tiny.py": MODELING, "bend_tiny.py": BEND}


def forget() -> None:
    """Makes this process one that has imported no code of a folder."""
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def save_remote(folder: Path, tokenizer: Path) -> Path:
    """Writes the folder: random weights, 16 dimensions, the tokenizer of another folder."""
    shutil.copytree(tokenizer, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    for name, text in CODE.items():
        (folder / name).write_text(text)
    config = {
        "model_type": "tiny_remote",
        "architectures": ["TinyModel"],
        "auto_map": {"AutoConfig": "configuration_tiny.TinyConfig", "AutoModel": "modeling_tiny.TinyModel"},
        "vocab_size": WORDS,
        "hidden_size": 16,
    }
    (folder / "config.json").write_text(json.dumps(config))
    random = torch.Generator().manual_seed(0)
    shapes = {"words.weight": (WORDS, 16), "query.weight": (16, 16), "query.bias": (16,)}
    weights = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
