"""Writes docs/losses.md from the losses themselves: ``python -m ray_st.losses.table > docs/losses.md``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any

from ray_st import losses
from ray_st.losses.helpers import function_name
from ray_st.losses.labels import OPTIONAL
from ray_st.losses.loss import Loss
from ray_st.losses.modifier import Modifier
from ray_st.losses.tiles import TILE_SCORES

_HEAD = """\
# Losses

Written by `python -m ray_st.losses.table`; don't edit by hand.

A loss is made with the model and its options, and called with the features of the text columns and the labels. The order
of a dataset's columns counts, not their names; a column named `label`, `labels`, `score` or `scores` holds the labels.

Every loss embeds all columns together, sorted by length and cut into chunks with little padding. Further properties of
every loss:

- **Gradient cache.** The `Cached…` names, and any other loss after `loss.cache(mini_batch_size)`, hold the activations of one
  mini-batch at a time. Value and gradient stay the same.
- **Tiles.** Ranking losses with more than TILE_SCORES similarities compute them in tiles; memory grows with the number of
  candidates, not with its square. `loss.tile_scores` sets another limit.
- **Workers.** With `gather_across_devices=True` the rows of all workers count as one batch.
- **Parts.** A loss may give a dictionary of named scalars; the sum is trained on.

"""

_NEW = """
## A loss of your own

A dozen lines: [custom-loss.md](custom-loss.md).
"""


def page() -> str:
    """The whole page."""
    classes = [getattr(losses, name) for name in losses.__all__]
    classes = [each for each in classes if isinstance(each, type) and issubclass(each, Loss)]
    plain = [each for each in classes if not issubclass(each, Modifier) and each is not Loss]
    around = [each for each in classes if issubclass(each, Modifier) and each is not Modifier]
    sections = ("## Losses by name", plain), ("## Losses around losses", around)
    return (
        _HEAD.replace("TILE_SCORES", f"{TILE_SCORES:,}")
        + "\n".join(f"{title}\n\n{_table(part)}" for title, part in sections)
        + _NEW
    )


def _table(classes: list[type[Loss]]) -> str:
    head = "| loss | what | inputs | labels | sampler | options |\n| --- | --- | --- | --- | --- | --- |\n"
    return head + "".join(f"| {' | '.join(_row(each))} |\n" for each in classes)


def _row(each: type[Loss]) -> Iterator[str]:
    yield f"`{each.__name__}`"
    yield _prose(_paragraphs(each)[0])
    inputs = _inputs(each)
    yield re.split(r"; no labels|\. |,? with |, also |:", inputs)[0].rstrip(".") or "any"
    modifier = issubclass(each, Modifier)
    yield "the inner loss's" if modifier else each.labels.replace(OPTIONAL, "optional: ")
    sampler = re.search(r"BatchSamplers\.\w+", inputs)
    yield f"`{sampler.group()}`" if sampler else "any"
    yield ", ".join(_options(each))


def _paragraphs(each: type[Loss]) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(each.__doc__ or "").split("\n\n")]


def _inputs(each: type[Loss]) -> str:
    """What a class, or the nearest above it, says of its inputs."""
    found = (part for base in each.__mro__ if base is not Loss for part in _paragraphs(base))
    text = next((part for part in found if part.startswith("Inputs")), "")
    return _prose(re.sub(r"^Inputs( and labels)?: ", "", text))


def _prose(text: str) -> str:
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    text = re.sub(r":(?:class|func|mod|data):`([^`]*)`", r"`\1`", text).replace("``", "`")
    return text.replace("|", "\\|")


def _options(each: type[Loss]) -> Iterator[str]:
    for name, option in list(inspect.signature(each).parameters.items())[1:]:
        yield f"`{name}`" if option.default is option.empty else f"`{name}={_default(option.default)}`"


def _default(value: Any) -> str:
    if callable(value):
        return function_name(value) if not hasattr(value, "name") else str(value)
    return repr(value).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
