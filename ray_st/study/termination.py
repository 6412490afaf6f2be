"""Whether a search may end early: Optuna's terminators, asked after each complete trial.

The module ``optuna.terminator`` is deprecated since Optuna 4.9 and leaves with Optuna 6; it is imported only
where a search has a terminator.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import optuna

from ray_st.util.events import notes

MODULE = "optuna.terminator"

_FAULTS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)
"""What a terminator may raise; it must not cost a search."""


class Terminator(Protocol):
    """As Optuna's ``BaseTerminator``."""

    def should_terminate(self, study: optuna.Study) -> bool:
        """Whether no more trials are needed."""


def random_trials(trials: int) -> int:
    """How many trials are drawn at random before the sampler learns from them: a quarter, 4 to 10.

    Args:
        trials: How many trials the search has.
    """
    return min(max(trials // 4, 4), 10)


def check_terminator(given: object, objectives: int, constraints: bool) -> None:
    """Checks a search's ``terminator``.

    Args:
        given: True, an Optuna terminator or improvement evaluator; None or False for none.
        objectives: How many objectives there are.
        constraints: Whether the search has constraints.

    Raises:
        ValueError: If it is something else, or cannot work here.
    """
    if given is None or given is False:
        return
    if objectives > 1:
        raise ValueError(
            f"terminator: Optuna's compare one objective, and this search has {objectives}. Leave it out, or "
            "use time_budget_s."
        )
    module = _module()
    if given is not True and not isinstance(given, module.BaseTerminator | module.BaseImprovementEvaluator):
        raise ValueError(
            "terminator: expected True, an Optuna terminator (optuna.terminator.Terminator(...)) or an "
            f"improvement evaluator (optuna.terminator.EMMREvaluator()), found {given!r}."
        )
    if constraints and (given is True or type(given).__module__.startswith("optuna.")):
        raise ValueError(
            "terminator: Optuna's do not know constraints: they would count on values of trials that violate "
            "them. Leave one of the two out, or give a terminator of your own, a subclass of "
            "optuna.terminator.BaseTerminator."
        )
    match given:
        case module.Terminator(_error_evaluator=module.CrossValidationErrorEvaluator()):
            raise ValueError(
                "terminator: its CrossValidationErrorEvaluator (the default) needs cross-validation scores, "
                "which trials of a search do not report. Use terminator=True, or another error_evaluator, "
                "such as optuna.terminator.StaticErrorEvaluator(0.001)."
            )


def make_terminator(given: object, trials: int, seed: int) -> Terminator | None:
    """The terminator that a search asks; None for none.

    True is Optuna's recommendation, which needs nothing but the objectives: EMMREvaluator, the expected
    minimum model regret, against MedianErrorEvaluator, a hundredth of its own median over the first trials
    after those at random. Optuna discards 10 trials and takes the median of 20; here both are a quarter of
    the search, at most as many, so that a search of 20 trials can end early, too. An improvement evaluator
    gets the same partner; BestValueStagnationEvaluator ends the search when its patience is used up.

    Args:
        given: As for :func:`check_terminator`.
        trials: How many trials the search has.
        seed: The search's seed.
    """
    if given is None or given is False:
        return None
    module = _module()
    if isinstance(given, module.BaseTerminator):
        own: Terminator = given
        return own
    with _unannounced():
        improvement = module.EMMREvaluator(seed=seed) if given is True else given
        if isinstance(improvement, module.BestValueStagnationEvaluator):
            error, least = module.StaticErrorEvaluator(0), 1
        else:
            first, median_of = random_trials(trials), min(max(trials // 4, 4), 20)
            error = module.MedianErrorEvaluator(improvement, warm_up_trials=first, n_initial_trials=median_of)
            least = first + median_of
        paired: Terminator = module.Terminator(improvement, error, min_n_trials=least)
    return paired


class Termination:
    """Asks a terminator; one that fails is asked no more, and the search continues to its last trial.

    Args:
        terminator: The terminator; None to always continue.
    """

    def __init__(self, terminator: Terminator | None) -> None:
        self._terminator = terminator

    def __bool__(self) -> bool:
        return self._terminator is not None

    def reason(self, study: optuna.Study) -> str:
        """Why no more trials are needed; empty if they are.

        Args:
            study: Optuna's study, after a trial was completed.
        """
        if self._terminator is None:
            return ""
        name = type(self._terminator).__name__
        try:
            with _unannounced():
                ends = self._terminator.should_terminate(study)
        except _FAULTS as error:  # the user's code, or Optuna's on an unforeseen space
            notes.warning(
                f"warning: terminator {name} failed ({type(error).__name__}: {error}); the search continues "
                "without it"
            )
            self._terminator = None
            return ""
        return f"{name} expects no more improvement after {_complete(study)} complete trials" if ends else ""


def _complete(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)))


def _module() -> Any:
    try:
        return importlib.import_module(MODULE)
    except ImportError as error:
        raise ValueError(
            f"terminator: {MODULE} cannot be imported ({error}); Optuna removes it with version 6: install "
            "'optuna<6', or leave the terminator out."
        ) from error


@contextmanager
def _unannounced() -> Iterator[None]:
    """Without the warnings that these classes are experimental and will move: the user need not know here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message=".*optuna.terminator.*", category=FutureWarning)
        yield
