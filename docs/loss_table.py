"""Writes docs/losses.md from the losses themselves: ``python docs/loss_table.py > docs/losses.md``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from enum import Enum

from ray_st import losses
from ray_st.cross_encoder import losses as reranker_losses
from ray_st.losses.labels import OPTIONAL
from ray_st.losses.loss import Loss
from ray_st.losses.model_facts import function_name
from ray_st.losses.modifier import Modifier
from ray_st.losses.scores import ScoreLoss
from ray_st.losses.tiles import TILE_SCORES

_HEAD = """\
# Losses

Written by `python docs/loss_table.py`; don't edit by hand.

A loss is created with the model and its options, and called with the features of the text columns and the
labels. The order of columns matters, not their names; a column named `label`, `labels`, `score` or `scores`
holds the labels.

Every loss embeds all columns together, in chunks of rows of similar length, and supports:

- **Gradient cache.** The `Cached…` names, and any other loss after `loss.cache(mini_batch_size)`, hold the
  activations of one mini-batch at a time. Value and gradient are unchanged.
- **Tiles.** Ranking losses with more than TILE_SCORES similarities use tiles; memory grows linearly
  with the number of candidates. `loss.tile_scores` sets another limit.
- **Workers.** With `gather_across_devices=True` the rows of all workers count as one batch.
- **Parts.** A loss may return a dictionary of named scalars; their sum is trained on.

"""

_RERANKERS = "## Losses of rerankers\n\nIn `ray_st.cross_encoder.losses`; [Rerankers](rerankers.md) says when to use which.\n\n"
_BASES = {"ListLoss", "ReducedLoss", "ScoreLoss"}

_NEW = """
## Custom losses

A loss of your own takes a dozen lines: [custom losses](custom-loss.md).
"""


def page() -> str:
    """The whole page."""
    classes = [losses.__getattr__(name) for name in losses.__all__]
    classes = [each for each in classes if isinstance(each, type) and issubclass(each, Loss)]
    plain = [each for each in classes if not issubclass(each, Modifier) and each is not Loss]
    around = [each for each in classes if issubclass(each, Modifier) and each is not Modifier]
    sections = ("## Losses by name", plain), ("## Loss modifiers", around)
    return (
        _HEAD.replace("TILE_SCORES", f"{TILE_SCORES:,}")
        + "\n".join(f"{title}\n\n{_table(part)}" for title, part in sections)
        + f"\n{_RERANKERS}{_table(_of_rerankers())}"
        + _NEW
    )


def _of_rerankers() -> list[type[Loss]]:
    names = [name for name in reranker_losses.__all__ if name not in _BASES]
    classes = [getattr(reranker_losses, name) for name in names]
    return [each for each in classes if issubclass(each, ScoreLoss)]


def _table(classes: list[type[Loss]]) -> str:
    head = "| loss | what | inputs | labels | sampler | options |\n| --- | --- | --- | --- | --- | --- |\n"
    return head + "".join(f"| {' | '.join(_row(each))} |\n" for each in classes)


def _row(each: type[Loss]) -> Iterator[str]:
    yield f"`{each.__name__}`"
    yield _prose(_paragraphs(each)[0])
    inputs = _inputs(each)
    yield re.split(r"; no labels|, without labels|\. |,? with |, also |:", inputs)[0].rstrip(".") or "any"
    modifier = issubclass(each, Modifier)
    yield "the inner loss's" if modifier else each.labels.replace(OPTIONAL, "optional: ")
    sampler = re.search(r"BatchSamplers\.\w+", inputs)
    negatives = "`BatchSamplers.NO_DUPLICATES`" if each.in_batch_negatives else "any"
    yield f"`{sampler.group()}`" if sampler else negatives
    yield ", ".join(_options(each))


def _paragraphs(each: type[Loss]) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(each.__doc__ or "").split("\n\n")]


def _inputs(each: type[Loss]) -> str:
    """The inputs that a class, or its nearest base, documents."""
    found = (part for base in each.__mro__ if base is not Loss for part in _paragraphs(base))
    text = next((part for part in found if re.match("Inputs(?!: as there)", part)), "")
    return _prose(re.sub(r"^Inputs( and labels)?: ", "", text))


def _prose(text: str) -> str:
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    text = re.sub(r":(?:class|func|mod|data):`([^`]*)`", r"`\1`", text).replace("``", "`")
    return text.replace("|", "\\|")


def _options(each: type[Loss]) -> Iterator[str]:
    for name, option in list(inspect.signature(each).parameters.items())[1:]:
        yield f"`{name}`" if option.default is option.empty else f"`{name}={_default(option.default)}`"


def _default(value: object) -> str:
    if callable(value):
        return str(value) if isinstance(value, Enum) else function_name(value)
    return repr(value).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
