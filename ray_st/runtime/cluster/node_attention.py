"""Whether the nodes that may run a model's copies have the attention that it computes with."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import RunConfig, ScalingConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_st.models.attention import fault_of, needs_gpu
from ray_st.runtime.cluster.connection import resources_of_worker
from ray_st.util.events import notes

Amounts = Mapping[str, float]
"""Resources of a process, by name."""

Selector = Mapping[str, str]
"""Labels that a process's node must have, in Ray's form: ``value``, ``!value``, ``in(…)``, ``!in(…)``."""

_ANSWER_S = 120
"""Seconds in which a node has to answer; imports from a network disk may take one or two minutes."""

_VALUES = re.compile(r"(!?)in\((.*)\)|(!?)(.*)")


def check_attention(
    names: Collection[str],
    needs: Iterable[Amounts],
    selectors: Sequence[Selector] = ({},),
    runtime_env: Mapping[str, Any] | None = None,
) -> None:
    """Refuses processes that could land on a node without the attention that their model computes with.

    Nothing is asked of the nodes unless a model needs more than PyTorch.

    Args:
        names: The attentions; see :func:`ray_st.models.attention.of_packages`.
        needs: The resources of each process, or of each kind of process.
        selectors: Labels of the nodes they may run on; a node that fits one of these is a candidate.
        runtime_env: The processes' runtime environment; None for the job's.

    Raises:
        ValueError: Naming the nodes, what they lack, and what to do.
    """
    if not names:
        return
    wanted = [dict(need) for need in needs]
    _check_devices(names, wanted)
    rows = {row["NodeID"]: row for need in wanted for row in candidates(ray.nodes(), need, selectors)}
    # The process ends afterwards: it has loaded PyTorch, and may see GPUs that were not granted to it.
    options: dict[str, Any] = {"num_cpus": 0, "max_calls": 1}
    if runtime_env:
        options["runtime_env"] = dict(runtime_env)
    ask: Any = ray.remote(**options)(faults_here)
    answers = []
    for node, row in rows.items():
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        answers.append((_name(row), ask.options(scheduling_strategy=there).remote(sorted(names))))
    found = [(name, _answer(name, answer)) for name, answer in answers]
    if fault := refusal(found):
        raise ValueError(fault)


def check_attention_of_workers(
    names: Collection[str], scaling: ScalingConfig, run_config: RunConfig | None = None
) -> None:
    """Refuses a worker group as :func:`check_attention` does.

    Args:
        names: The attentions.
        scaling: Number and kind of workers.
        run_config: Their runtime environment is in it; None for the job's.

    Raises:
        ValueError: As for :func:`check_attention`.
    """
    each = resources_of_worker(scaling)
    if scaling.accelerator_type:
        each[f"accelerator_type:{scaling.accelerator_type}"] = 0.001  # as Ray Train asks for it
    version_2: Any = scaling, run_config  # Ray declares the classes of Train's first version
    labels = version_2[0].label_selector or {}
    environment = None if run_config is None else version_2[1].worker_runtime_env
    check_attention(names, [each], [labels] if isinstance(labels, Mapping) else labels, environment)


def faults_here(names: Sequence[str]) -> dict[str, str]:
    """What this process lacks for each attention that it cannot compute.

    Args:
        names: The attentions.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        del os.environ["CUDA_VISIBLE_DEVICES"]  # Ray may hide the node's GPUs from a task that asks for none
    return {name: fault for name in names if (fault := fault_of(name)) is not None}


def candidates(
    rows: Iterable[Mapping[str, Any]], need: Amounts, selectors: Sequence[Selector]
) -> list[Mapping[str, Any]]:
    """The nodes on which a process may run, however busy they are now.

    Args:
        rows: Ray's table of nodes.
        need: The process's resources.
        selectors: As for :func:`check_attention`.
    """
    return [
        row
        for row in rows
        if row["Alive"]
        and all(row["Resources"].get(name, 0) >= amount for name, amount in need.items())
        and any(_fits(row["Labels"], selector) for selector in selectors)
    ]


def _fits(labels: Mapping[str, str], selector: Selector) -> bool:
    for name, condition in selector.items():
        match = _VALUES.fullmatch(condition)
        assert match is not None, "any text matches"
        several, values, single, value = match.groups()
        listed = [value] if values is None else [one.strip() for one in values.split(",")]
        if (labels.get(name) in listed) == bool(several or single):
            return False
    return True


def refusal(found: Sequence[tuple[str, Mapping[str, str]]]) -> str | None:
    """Why a model cannot be computed on some nodes, and what to do; None if it can on all.

    Args:
        found: For each node its name, and what it lacks for each attention; see :func:`faults_here`.
    """
    nodes = defaultdict(list)
    for node, faults in found:
        for name, fault in faults.items():
            nodes[name, fault].append(node)
    if not nodes:
        return None
    listed = "; ".join(
        f"{name}: {fault} on {', '.join(where)}" for (name, fault), where in sorted(nodes.items())
    )
    lacking = sum(bool(faults) for _, faults in found)
    return (
        f"The model's attn_implementation cannot be computed on {lacking} of the {len(found)} node(s) that "
        f"may get a copy of it: {listed}. Install the package in the image or the job's runtime_env, "
        "choose nodes that have it (scaling_config's label_selector), or open the model with another "
        "attn_implementation, or with none."
    )


def _check_devices(names: Collection[str], needs: Iterable[Amounts]) -> None:
    on_gpus = sorted(filter(needs_gpu, names))
    without = [need for need in needs if not need.get("GPU")]
    if on_gpus and without:
        raise ValueError(
            f"The model's attn_implementation {on_gpus[0]} computes on GPUs only, and a copy would get "
            f"{without[0]}. Ask for GPUs (scaling_config=ScalingConfig(use_gpu=True), or devices such as "
            "'cuda'), or open the model with another attn_implementation, or with none."
        )


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['NodeManagerAddress']} ({row['NodeManagerHostname']})"


def _answer(node: str, answer: ray.ObjectRef[dict[str, str]]) -> dict[str, str]:
    """What a node lacks; nothing if it cannot be asked, as it may be on its way out."""
    try:
        return ray.get(answer, timeout=_ANSWER_S)
    except RayError as error:
        notes.warning(
            f"warning: node {node} could not be asked for its attention: {str(error).splitlines()[-1]}"
        )
        return {}
