"""Encoded datasets that all trials of a search share: blocks in the object store, plans made where used."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xxhash
from ray import cloudpickle
from transformers import PreTrainedTokenizerFast

from ray_st.data.encoding import Encoder, Encoding
from ray_st.data.routes import TextEncoder
from ray_st.models.tokens import TokenEncoder
from ray_st.runtime.data.block_source import RayBatchSource
from ray_st.runtime.data.cluster_source import build_of_blocks, build_on_cluster
from ray_st.runtime.data.ingest import EncodedBlocks, default_window_bytes, ingest
from ray_st.training.data.arrangement import check_stats
from ray_st.training.data.local_source import build_here
from ray_st.training.data.source_builder import BuiltSource
from ray_st.training.data.specs import LoaderSpec


@dataclass(frozen=True)
class SharedRows:
    """One dataset's encoded rows.

    Args:
        key: What they were encoded with.
        blocks: The rows.
    """

    key: str
    blocks: EncodedBlocks


@dataclass(frozen=True)
class SharedData:
    """The encoded datasets of a search.

    Args:
        rows: By batch source and dataset.
        window_bytes: Most bytes to shuffle at once where the arguments don't say.
    """

    rows: Mapping[tuple[str, str], SharedRows]
    window_bytes: int

    def facts(self) -> dict[str, str]:
        """Number of rows, and a hash of their texts and labels, by batch source and dataset."""
        return {
            f"{source.removesuffix(f':{name}')}.{name}".strip("."): (
                f"{one.blocks.stats.rows:,} rows ({one.blocks.stats.fingerprint})"
            )
            for (source, name), one in self.rows.items()
        }


def share(specs: Mapping[str, LoaderSpec]) -> SharedData:
    """Encodes the datasets of a run once.

    Args:
        specs: The run's datasets, by batch source.

    Raises:
        ValueError: If rows cannot be used, or there are too few.
    """
    rows = {}
    for source, spec in specs.items():
        for name, dataset in spec.datasets.items():
            blocks = ingest(dataset.source, dataset.encoding, dataset.label)
            rows[source, name] = SharedRows(encoding_key(dataset.encoding), blocks)
        check_stats(spec, {name: rows[source, name].blocks.stats for name in spec.datasets})
    return SharedData(rows, default_window_bytes())


def encoding_key(encoding: Encoding) -> str:
    """A digest of what an encoding makes of rows; equal for equal tokenizers, in any process."""
    facts = [encoding.columns, encoding.keep_texts, sorted(encoding.prompts.items()), list(encoding.routes)]
    encoders = [encoding.encoder, *(route.encoder for route in encoding.routes.values())]
    return xxhash.xxh3_64_hexdigest(repr(facts).encode() + b"".join(map(_encoder_state, encoders)))


def _encoder_state(encoder: Encoder | TextEncoder | None) -> bytes:
    if not isinstance(encoder, TokenEncoder) or not isinstance(encoder.tokenizer, PreTrainedTokenizerFast):
        return bytes(cloudpickle.dumps(encoder))
    # Pickles of equal tokenizers differ; what they were last asked to cut and pad is no part of them.
    written = json.loads(encoder.tokenizer.backend_tokenizer.to_str())
    state = {name: part for name, part in written.items() if name not in ("truncation", "padding")}
    settings = {name: value for name, value in encoder.__getstate__().items() if name != "tokenizer"}
    return json.dumps([type(encoder).__qualname__, settings, state], sort_keys=True, default=repr).encode()


def source_here(name: str, spec: LoaderSpec, shared: SharedData) -> BuiltSource[Any]:
    """The batch source of a trial in this process.

    Args:
        name: The source's name.
        spec: Its datasets.
        shared: The search's rows; where a trial encodes otherwise, it encodes anew.
    """
    blocks = _shared_blocks(name, spec, shared)
    if blocks is None:
        return build_here(spec)
    return build_of_blocks(_bounded(spec, shared), blocks, lambda planner: planner, first_epoch=False)


def source_for_workers(name: str, spec: LoaderSpec, shared: SharedData) -> BuiltSource[RayBatchSource]:
    """The batch source of a trial on several workers: each epoch is planned once for all of them.

    Args:
        name: The source's name.
        spec: Its datasets.
        shared: The search's rows; where a trial encodes otherwise, it encodes anew.
    """
    blocks = _shared_blocks(name, spec, shared)
    if blocks is None:
        return build_on_cluster(spec)
    return build_of_blocks(_bounded(spec, shared), blocks, first_epoch=False)


def _shared_blocks(name: str, spec: LoaderSpec, shared: SharedData) -> dict[str, EncodedBlocks] | None:
    """The shared rows of a source's datasets; None where a trial encodes one of them in another way."""
    found = {dataset: shared.rows.get((name, dataset)) for dataset in spec.datasets}
    blocks = {
        dataset: one.blocks
        for dataset, one in found.items()
        if one is not None and one.key == encoding_key(spec.datasets[dataset].encoding)
    }
    return blocks if len(blocks) == len(found) else None


def _bounded(spec: LoaderSpec, shared: SharedData) -> LoaderSpec:
    return dataclasses.replace(spec, window_bytes=spec.window_bytes or shared.window_bytes)
