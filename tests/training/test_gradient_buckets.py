"""Two gloo ranks: cached losses accumulate in the reducer's buckets, and give the gradients of plain losses."""

from __future__ import annotations

import gc
import types
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from processes import run_ranks
from ray_st import SentenceTransformer
from ray_st.losses import Matryoshka2dLoss, MultipleNegativesRankingLoss
from ray_st.testing.tiny_encoder import DIM, TinyEncoder, token_columns
from ray_st.training.distributed import collectives
from ray_st.training.strategies.step_module import Step

ROWS, MINI_BATCH = 5, 2
ARGS = {
    "ddp_find_unused_parameters": None,
    "ddp_broadcast_buffers": None,
    "ddp_bucket_cap_mb": 400 / 2**20,  # several buckets
    "device": torch.device("cpu"),
}
Gradients = dict[str, Tensor | None]


def arguments(static: bool = False) -> Any:
    return types.SimpleNamespace(**ARGS, ddp_static_graph=static)


def copied(model: nn.Module) -> Gradients:
    """A model's gradients."""
    found = {name: weight.grad for name, weight in model.named_parameters()}
    return {name: None if grad is None else grad.clone() for name, grad in found.items()}


class Routed(nn.Module):
    """An encoder with a layer for each task; columns of different tasks are different nodes of the graph."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = TinyEncoder()
        self.encoder.types.requires_grad_(False)
        self.layers = nn.ModuleDict({task: nn.Linear(DIM, DIM) for task in ("query", "document", "rare")})
        self.double()

    def forward(self, features: Any) -> dict[str, Any]:
        embedding = self.encoder(features)["sentence_embedding"]
        return {"sentence_embedding": self.layers[features["task"]](embedding)}


class Rank:
    """Model and loss of a rank, wrapped.

    Args:
        cached: Whether the loss has a gradient cache.
        unused: Whether steps leave weights unused.
        static: Whether the graph is declared to be the same in each step.
    """

    def __init__(self, cached: bool, unused: bool = True, static: bool = False) -> None:
        self.cached, self.model = cached, Routed()
        self.model.layers["rare"].requires_grad_(unused)
        self.loss = MultipleNegativesRankingLoss(self.model)
        self.loss.cache(MINI_BATCH if cached else None)
        self.wrapped = collectives.reduce_gradients(Step(self.model, self.loss), arguments(static), unused)

    def value(self, seed: int, tasks: tuple[str, str] = ("query", "document")) -> Tensor:
        """The loss of a batch of this rank's own rows."""
        features = token_columns(2, ROWS, seed=seed + 100 * dist.get_rank())
        given = [{**column, "task": task} for column, task in zip(features, tasks, strict=True)]
        value: Tensor = self.loss(given)
        return value

    def step(self, compute: Callable[[], Tensor], syncs: bool = True) -> None:
        """Forward and backward of a batch; its gradients are reduced unless more are to come."""
        with nullcontext() if syncs else self.wrapped.no_sync():
            self.wrapped(compute).backward()

    def gradients(self) -> Gradients:
        return copied(self.model)

    def is_in_buckets(self) -> bool:
        """Whether gradients are where those of several weights lie."""
        grads = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        return all(grad.untyped_storage().nbytes() > grad.nbytes for grad in grads if grad.numel() <= DIM)


def several_steps(rank: Rank) -> Iterator[Gradients]:
    """Buckets are made anew after the first."""
    for number in range(3):
        rank.wrapped.zero_grad()
        rank.step(lambda number=number: rank.value(number))
        yield rank.gradients()


def accumulated_batches(rank: Rank) -> Iterator[Gradients]:
    """With and without gradient cache in one step, in any order; also before the first reduction."""
    for number, caches in enumerate(("ccc", "pcc", "cpc", "ccp", "ppc")):
        rank.wrapped.zero_grad()
        for place, kind in enumerate(caches):
            rank.loss.cache(MINI_BATCH if rank.cached and kind == "c" else None)
            rank.step(lambda seed=10 * number + place: rank.value(seed), syncs=place == 2)
            if place == 0 and kind == "c" and rank.cached:
                assert rank.is_in_buckets()
        yield rank.gradients()


def gradients_that_stay(rank: Rank) -> Iterator[Gradients]:
    """Reduced gradients to which more are added, zeros included."""
    for number in range(4):
        if number == 2:
            rank.wrapped.zero_grad(set_to_none=False)
        rank.step(lambda number=number: rank.value(number))
        yield rank.gradients()


def several_nodes(rank: Rank) -> Iterator[Gradients]:
    """A weight is in several cached passes of a step, and outside of them."""
    for number in range(2):
        rank.wrapped.zero_grad()
        mix = rank.model.encoder.mix
        rank.step(
            lambda number=number, mix=mix: rank.value(number) + rank.value(number + 9) + mix.pow(2).sum()
        )
        yield rank.gradients()


def unused_weights(rank: Rank) -> Iterator[Gradients]:
    """Layers are in use on both ranks, on one, or on none, where their gradient stays None."""
    first = dist.get_rank() == 0
    for number in range(4):
        rank.wrapped.zero_grad()
        second = "rare" if number == 1 or (number == 2 and first) else "query"
        rank.step(lambda number=number, second=second: rank.value(number, ("query", second)))
        found = rank.gradients()
        assert (found["layers.rare.weight"] is None) == (number in (0, 3))
        assert found["layers.document.weight"] is None
        yield found


def unused_weights_in_accumulated_batches(rank: Rank) -> Iterator[Gradients]:
    for seconds in (("rare", "query"), ("query", "rare"), ("query", "query")):
        rank.wrapped.zero_grad()
        for place, second in enumerate(seconds):
            rank.step(lambda second=second: rank.value(0, ("query", second)), syncs=place == 1)
        yield rank.gradients()


def scaled_losses(rank: Rank) -> Iterator[Gradients]:
    """As with fp16."""
    optimizer = torch.optim.SGD(rank.model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    for number in range(3):
        rank.wrapped.zero_grad()
        rank.step(lambda number=number: scaler.scale(rank.value(number)))
        scaler.unscale_(optimizer)
        yield rank.gradients()
        scaler.step(optimizer)
        scaler.update()


def hooks_on_weights(rank: Rank) -> Iterator[Gradients]:
    """They see a weight's gradient once a step, whole."""
    seen: list[Gradients] = []
    mix, words = rank.model.encoder.mix, rank.model.encoder.words
    mix.register_hook(lambda grad: seen.append({"mix": grad.clone()}) or grad.clamp(-1e-2, 1e-2))
    words.register_post_accumulate_grad_hook(lambda weight: seen.append({"words": weight.grad.clone()}))
    for number in range(2):
        rank.wrapped.zero_grad()
        rank.step(lambda number=number: rank.value(number) + rank.value(number + 9))
        yield rank.gradients()
    assert len(seen) == 4
    yield from sorted(seen, key=list)


def grad_of_a_cached_loss(rank: Rank) -> Iterator[Gradients]:
    """Neither ``autograd.grad`` nor ``backward(inputs=...)`` touches what they do not name."""
    mix, words = rank.model.encoder.mix, rank.model.encoder.words
    for number in range(2):
        rank.wrapped.zero_grad()
        found: list[Gradients] = []

        def compute(number: int = number, found: list[Gradients] = found) -> Tensor:
            of_both = torch.autograd.grad(rank.value(number + 5), [mix, words])
            of_one = torch.autograd.grad(rank.value(number + 6), [mix])
            found.append({"mix": of_both[0], "words": of_both[1], "only mix": of_one[0]})
            assert all(grad is None for grad in rank.gradients().values())
            return rank.value(number)

        rank.step(compute)
        yield rank.gradients()
        yield from found
        rank.wrapped.zero_grad()
        with rank.wrapped.no_sync():
            rank.wrapped(lambda: rank.value(3)).backward(inputs=[words])
        yield rank.gradients()


STEPS: dict[Any, dict[str, Any]] = {
    several_steps: {"unused": False},
    accumulated_batches: {"unused": False},
    gradients_that_stay: {"unused": False},
    several_nodes: {"unused": False},
    unused_weights: {},
    unused_weights_in_accumulated_batches: {},
    scaled_losses: {"unused": False},
    hooks_on_weights: {"unused": False},
    grad_of_a_cached_loss: {"unused": False},
}
CASES = {steps.__name__: (steps, options) for steps, options in STEPS.items()} | {
    "several_steps_that_may_leave_weights_unused": (several_steps, {}),
    "several_steps_of_a_static_graph": (several_steps, {"unused": False, "static": True}),
}


def modified_loss(folder: str, cached: bool) -> list[Gradients]:
    """Layers and dimensions of one pass, and twice in a step."""
    model = SentenceTransformer(folder, device="cpu").double().eval()
    inner = MultipleNegativesRankingLoss(model)
    inner.cache(MINI_BATCH if cached else None)
    loss = Matryoshka2dLoss(model, inner, [32, 8], n_layers_per_step=-1, n_dims_per_step=-1)
    wrapped = collectives.reduce_gradients(Step(model, loss), arguments(), unused=True)
    found: list[Gradients] = []
    for first in ("one", "two"):
        wrapped.zero_grad()
        columns = [[f"{first} three", "four", f"five {dist.get_rank()}"], ["one", "six two", "seven"]]
        wrapped(
            lambda columns=columns: sum(loss(list(map(model.tokenize, columns))) for _ in range(2))
        ).backward()
        found.append(copied(model))
    return found


class Copies(TorchDispatchMode):
    """Counts tensors of the weights' sizes that exist at the same time besides those known before.

    Args:
        known: Weights, and tensors in the buckets.
        sizes: Numbers of elements of the weights.
    """

    def __init__(self, known: list[Tensor], sizes: set[int]) -> None:
        super().__init__()
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._sizes = sizes
        self._alive: dict[int, StorageWeakRef] = {}
        self.most, self.seen = 0, 0

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        # First, as a new tensor may lie where one was that is gone.
        self._alive = {place: one for place, one in self._alive.items() if not one.expired()}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.numel() in self._sizes:
                self._see(tensor.untyped_storage())
        self.most = max(self.most, len(self._alive))
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage.data_ptr() not in self._known and storage.data_ptr() not in self._alive:
            self._alive[storage.data_ptr()] = StorageWeakRef(storage)
            self.seen += 1


class Deep(nn.Module):
    """Many layers, whose number of weights no activation has."""

    def __init__(self, layers: int = 12, width: int = 17) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(layers)])

    def forward(self, features: Any) -> dict[str, Any]:
        return {"sentence_embedding": self.layers(features["rows"]).tanh()}


def copies(number: int, nodes: int) -> tuple[int, int]:
    """The most tensors besides weights and buckets in a step's backward pass, and how many there were in all."""
    model = Deep()
    loss = MultipleNegativesRankingLoss(model)
    loss.cache(MINI_BATCH)
    wrapped = collectives.reduce_gradients(Step(model, loss), arguments())
    weights = list(model.parameters())
    for _ in range(number):
        wrapped.zero_grad()
        features = [{"rows": torch.randn(ROWS, 17)} for _ in range(2)]
        value = wrapped(lambda features=features: sum(loss(features) for _ in range(nodes)))
        known = [*weights, *wrapped._places.values()]
        with Copies(known, {weight.numel() for weight in weights}) as found:
            value.backward()
        places = {weight.grad.untyped_storage().data_ptr() for weight in weights}
        assert places == {place.untyped_storage().data_ptr() for place in wrapped._places.values()}
    return found.most, found.seen


def reduced_in_a_copy(bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Reduces a copy of a bucket: a thread of gloo may hold what it reduced for a moment after it says that it is done."""
    total = bucket.buffer().clone()
    dist.all_reduce(total)
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer().copy_(total / dist.get_world_size()))
    return done


def freed_buckets() -> list[bool]:
    """For two steps, whether the buckets from before them are gone in the forward pass that follows."""
    rank, found = Rank(cached=True, unused=False), []
    rank.wrapped.register_comm_hook(None, lambda _, bucket: reduced_in_a_copy(bucket))
    gc.disable()
    for number in range(2):
        buckets = [StorageWeakRef(place.untyped_storage()) for place in rank.wrapped._places.values()]
        rank.step(lambda number=number: rank.value(number))
        rank.wrapped.zero_grad()
        found.append(rank.wrapped(lambda buckets=buckets: all(bucket.expired() for bucket in buckets)))
    gc.enable()
    return found


def changed_weight() -> str:
    rank = Rank(cached=True, unused=False)
    value = rank.wrapped(lambda: rank.value(0))
    with torch.no_grad():
        rank.model.encoder.mix += 1
    with pytest.raises(RuntimeError) as found:
        value.backward()
    assert all(grad is None for grad in rank.gradients().values())
    return str(found.value)


def _rank(rank: int, folder: str, tiny: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found: dict[Any, Any] = {
        (name, cached): list(steps(Rank(cached, **options)))
        for name, (steps, options) in CASES.items()
        for cached in (False, True)
    }
    found |= {(modified_loss.__name__, cached): modified_loss(tiny, cached) for cached in (False, True)}
    found["freed"] = freed_buckets()
    found["changed"] = changed_weight()
    found["copies"] = {(number, nodes): copies(number, nodes) for number in (1, 2, 3) for nodes in (1, 3)}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> list[Any]:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(_rank, str(folder), str(tiny_folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", [*CASES, modified_loss.__name__])
def test_gradients_are_those_of_the_plain_loss(name: str, ranks: list[Any]) -> None:
    for rank in ranks:
        plain, cached = rank[name, False], rank[name, True]
        assert len(plain) == len(cached) > 1
        for one, other in zip(plain, cached, strict=True):
            assert one.keys() == other.keys()
            assert any(gradient is not None and gradient.any() for gradient in one.values())
            for weight, gradient in one.items():
                assert (gradient is None) == (other[weight] is None), weight
                if gradient is not None:
                    torch.testing.assert_close(other[weight], gradient, rtol=1e-10, atol=1e-12)


def test_buckets_are_freed_when_they_are_made_anew(ranks: list[Any]) -> None:
    """At once, not when garbage is collected; they are made anew after the first step."""
    for rank in ranks:
        assert rank["freed"] == [True, False]


def test_weights_changed_between_the_passes_are_an_error(ranks: list[Any]) -> None:
    for rank in ranks:
        assert "modified by an inplace operation" in rank["changed"]


def test_there_is_no_second_copy_of_the_gradients(ranks: list[Any]) -> None:
    """Only the gradient of one mini-batch with respect to one weight, until it is added to the sum."""
    for rank in ranks:
        for number, nodes in rank["copies"]:
            most, seen = rank["copies"][number, nodes]
            assert seen >= 12 * nodes
            assert most == 1, f"step {number} with {nodes} passes"
