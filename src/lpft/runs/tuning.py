"""A search for learning rate, epochs and method by Optuna's TPE, run by run or batch by batch.

Its storage is the list of candidates in ``run.json``: the study is built anew from it for every
trial, with a sampler that is seeded by the trial's number. So a search that was stopped asks for
the same runs as one that was not. Runs of a batch train at the same time: each is chosen by the
scores of the batches before, and as if those chosen before it in its batch scored badly.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lpft.errors import InputError, named
from lpft.results.schema import CandidateRecord
from lpft.settings.configs import SEARCHED, SelectionConfig
from lpft.settings.methods import METHODS

if TYPE_CHECKING:
    import optuna

RATES = {"all": (5e-6, 5e-4), "adapter": (5e-5, 5e-3), "vectors": (1e-4, 5e-2)}
"""Learning rates to search, logarithmically, where everything is trained, an adapter of matrices,
or a few vectors."""
_VECTORS = ("bias", "ia3", "prefix")
EPOCHS = (1, 20)
_RANDOM_TRIALS = 5

Trial = tuple[str, str, dict[str, Any]]
"""Name, method and other settings of a run."""


def check_optuna() -> None:
    """Refuse a search where Optuna is not installed.

    Raises:
        InputError: it is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{named('tune')} needs the 'tune' extra, which is not installed: run "
            "pip install 'lpft[tune]'"
        ) from error


def trials(
    config: SelectionConfig, finished: Callable[[], Sequence[CandidateRecord]]
) -> Iterator[Trial]:
    """The runs of the search, each chosen by the scores of the batches before it.

    The first has the defaults of its method. ``finished`` gives the candidates so far. Batches are
    of as many runs as there are workers.
    """
    methods = config.methods
    if len(methods) > 1:
        methods = tuple(name for name in methods if METHODS[name].fine_tunes_head)
    searched = [name for name in SEARCHED if getattr(config.training, name) is None]
    digits = len(str(config.selection.tune))
    names = [f"trial-{number:0{digits}d}" for number in range(1, config.selection.tune + 1)]
    workers = config.selection.workers
    batch: list[Trial] = []
    before: list[CandidateRecord] = []
    for number, name in enumerate(names):
        if number % workers == 0:
            # A search that goes on has later ones too, which this one was chosen without.
            known = {one.folder.rpartition("/")[2]: one for one in finished()}
            before = [known[earlier] for earlier in names[:number] if earlier in known]
            batch = []
        chosen: tuple[str, dict[str, Any]] = (methods[0], {})
        if number > 0:
            chosen = _suggested(config, methods, searched, before, batch, number)
        batch.append((name, *chosen))
        yield batch[-1]


def _suggested(
    config: SelectionConfig,
    methods: Sequence[str],
    searched: Sequence[str],
    before: Sequence[CandidateRecord],
    batch: Sequence[Trial],
    number: int,
) -> tuple[str, dict[str, Any]]:
    """Method and settings of one trial, after those ``before`` it and beside those of its batch."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mixed = np.random.SeedSequence([config.training.seed, number]).generate_state(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=int(mixed[0]),
            n_startup_trials=_RANDOM_TRIALS,
            constant_liar=config.selection.workers > 1,
        )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for one in before:
        study.add_trial(_as_trial(config, methods, searched, one.method, one.settings, one))
    for _, chosen, settings in batch:
        study.add_trial(_as_trial(config, methods, searched, chosen, settings))
    trial = study.ask()
    method = methods[0]
    if len(methods) > 1:
        method = trial.suggest_categorical("method", list(methods))
    changes: dict[str, Any] = {}
    for name, (key, distribution) in _distributions(method, searched).items():
        low, high = distribution.low, distribution.high
        if name == "epochs":
            changes[name] = float(trial.suggest_int(key, low, high))
        else:
            changes[name] = trial.suggest_float(key, low, high, log=True)
    return method, changes


def _as_trial(
    config: SelectionConfig,
    methods: Sequence[str],
    searched: Sequence[str],
    method: str,
    changes: Mapping[str, Any],
    ended: CandidateRecord | None = None,
) -> "optuna.trial.FrozenTrial":
    """A candidate as Optuna records it, running unless it has ``ended``.

    One that could not be trained counts as failed.
    """
    import optuna

    params: dict[str, Any] = {}
    distributions: dict[str, Any] = {}
    if len(methods) > 1:
        params["method"] = method
        distributions["method"] = optuna.distributions.CategoricalDistribution(list(methods))
    used = config.run("used", method, **changes).training
    for name, (key, distribution) in _distributions(method, searched).items():
        low, high = distribution.low, distribution.high
        value = min(max(getattr(used, name), low), high)  # a default may lie outside
        params[key] = int(value) if name == "epochs" else value
        distributions[key] = distribution
    state = optuna.trial.TrialState.RUNNING
    if ended is not None:
        failed = ended.score is None
        state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
    return optuna.trial.create_trial(
        state=state,
        params=params,
        distributions=distributions,
        value=None if ended is None else ended.score,
    )


def _distributions(method: str, searched: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """For each setting to search, the name that the study has for it, and its range.

    Rates of adapters are far above those of whole models: they are parameters of their own.
    """
    import optuna

    trained = METHODS[method].trained
    kind = "all" if trained == "all" else "vectors" if trained in _VECTORS else "adapter"
    ranges: dict[str, tuple[str, Any]] = {
        "learning_rate": (
            f"learning_rate of {kind}",
            optuna.distributions.FloatDistribution(*RATES[kind], log=True),
        ),
        "epochs": ("epochs", optuna.distributions.IntDistribution(*EPOCHS)),
    }
    return {name: ranges[name] for name in searched}
