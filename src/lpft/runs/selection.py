"""Several runs on the same data, of which the one that validation chooses is kept.

The candidates are ordinary runs in ``candidates/`` below the folder, which gets the files of the
chosen one. Each is trained by :func:`~lpft.runs.train.train_run`, so that a selection goes on
wherever it was stopped; what was decided on the way is in ``run.json`` and is not decided again.
"""

import logging
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from lpft.analysis.comparison import wilson
from lpft.analysis.selection import RULE, Candidate, best_of_each, choose, reason_to_skip
from lpft.data import TextData, check_data, load_data
from lpft.data.checks import count_scoring_rows, log_findings
from lpft.data.lengths import check_lengths, quick_counter, quick_length
from lpft.data.splits import validation_kind
from lpft.errors import InputError, explain, named
from lpft.executors import get_executor
from lpft.files import check_model_path, link_or_copy
from lpft.results.folder import (
    WORK,
    check_output,
    clear,
    locked,
    now,
    publish,
    read_record,
    remove_leftovers,
)
from lpft.results.formats import counted
from lpft.results.resume import (
    RunResult,
    check_inputs_of_finished,
    check_same_output,
    check_same_settings,
    read_metrics,
)
from lpft.results.run import Predictions
from lpft.results.schema import (
    ERRORS,
    CandidateRecord,
    Decision,
    RunMetrics,
    RunRecord,
    Selection,
    StandingRecord,
)
from lpft.runs.sweep import Attempt, attempt
from lpft.runs.train import describe_data, status_recorded, train_run
from lpft.settings import MINILM, effective_epochs
from lpft.settings.configs import CANDIDATES, SEARCHED, RunConfig, SelectionConfig
from lpft.settings.methods import AUTO, METHODS, get_method

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

_TIMED_ROWS = 64
_PASSES = 4.0
"""What a step of fine-tuning costs, in forward passes: forward, backward, update, evaluation."""

RATE_RANGES = {"all": (5e-6, 5e-4), "adapter": (5e-5, 5e-3), "vectors": (1e-4, 5e-2)}
"""Learning rates to search, logarithmically, where everything is trained, an adapter of matrices,
or a few vectors."""
_VECTORS = ("bias", "ia3", "prefix")
EPOCH_RANGE = (1, 20)
_RANDOM_TRIALS = 5

Trial = tuple[str, str, dict[str, Any]]
"""Name, method and other settings of a run."""


def train_selection(
    config: SelectionConfig, *, resume: bool = False, overwrite: bool = False
) -> RunResult:
    """Train the candidates of ``config`` and fill its folder with the files of the chosen one.

    With ``resume`` finished candidates are left as they are and the others go on, to the choice
    that an uninterrupted selection would have made; a finished selection is returned as it is. With
    ``overwrite`` the folder's run, and its candidates, are replaced once the data is read.

    Raises:
        InputError: as :func:`~lpft.runs.train.train_run`. A candidate that diverges or does not fit
            in memory is left out, unless it is the first.
    """
    folder, began = config.output_dir, now()
    record = check_output(folder, resume=resume, overwrite=overwrite)
    if resume and record is not None:
        _check_same_selection(folder, record, config)
        if record.status == "finished":
            check_inputs_of_finished(folder, record, config.data, config.training)
            logger.info("%s is finished already", folder)
            return RunResult(folder, read_metrics(folder))
    if config.training.model != MINILM:
        check_model_path(config.training.model)
    if config.selection.tune > 0:
        check_optuna()
        get_executor(config.selection.executor, config.selection.workers)
    data = load_data(config.data)
    fine_tunes = any(get_method(method).fine_tunes for method in config.methods)
    count_scoring_rows(data, fine_tunes=fine_tunes)  # refuses rows that cannot
    log_findings(check_data(data, fine_tunes=fine_tunes))
    first = config.run(config.methods[0], config.methods[0]).training
    counter = quick_counter(first.model, first.revision)
    log_findings(check_lengths(data, counter, quick_length(data, first, counter)))
    with locked(folder):
        if check_output(folder, resume=resume, overwrite=overwrite) != record:
            raise InputError(f"'{folder}' was changed by another process: start again")
        if record is None or not resume:
            clear(folder, record)
            record = RunRecord(
                status="running",
                started=began,
                config=config.flat(),
                data=describe_data(data),
                selection=Selection(settings=config.flat(), rule=RULE),
            )
        record = record.updated(status="running", reason=None)
        with status_recorded(folder, record):
            return _SelectionRun(config, data, record).run()


def _check_same_selection(folder: Path, record: RunRecord, config: SelectionConfig) -> None:
    """Refuse to go on with a single run, or with settings that change the result.

    Raises:
        InputError: the folder's run is another one.
    """
    if record.selection is None:
        raise InputError(
            f"'{folder}' contains a single run, not several to choose from: name another "
            f"{named('output_dir')}, or give {named('overwrite=True')} to replace it"
        )
    recorded, finished = record.selection.settings, record.status == "finished"
    check_same_settings(folder, recorded, config.flat())
    check_same_output(folder, recorded, config.output, finished=finished)


@dataclass
class _SelectionRun:
    """A selection at work: its record on disk, and the candidates that have finished."""

    config: SelectionConfig
    data: TextData
    record: RunRecord
    candidates: list[Candidate] = field(default_factory=list)
    finished: list[CandidateRecord] = field(default_factory=list)
    """Beside ``candidates``, their records."""

    @property
    def folder(self) -> Path:
        return self.config.output_dir

    @property
    def selection(self) -> Selection:
        assert self.record.selection is not None
        return self.record.selection

    @property
    def _rows_per_class(self) -> float:
        from lpft.training.candidates import rows_per_class  # loads torch, as training does

        return rows_per_class(self.data)

    def run(self) -> RunResult:
        if self.config.selection.tune > 0 and self.config.training.method == AUTO:
            self._train("lp", self.config.run("lp", "lp"), {})
        runs = self._runs()
        while batch := list(islice(runs, self.config.selection.workers)):
            reasons = self._train_at_once([run for _, run, _ in batch])
            for (name, run, changes), reason in zip(batch, reasons, strict=True):
                self._train(name, run, changes, reason)
        contenders = list(range(len(self.candidates)))
        if self.config.selection.tune > 0:
            contenders = best_of_each(self.candidates)
        choice = choose([self.candidates[place] for place in contenders], self._rows_per_class)
        chosen = self.finished[contenders[choice.chosen]]
        reason = choice.reason
        if len(choice.standings) == 1 and len(self.candidates) > 1:
            reason = f"the best of {len(self.candidates)} runs"
        self._update(
            chosen=chosen.folder,
            reason=reason,
            standings=[
                StandingRecord(
                    **{name: getattr(standing, name) for name in StandingRecord.model_fields}
                )
                for standing in choice.standings
            ],
        )
        logger.info("chosen: %s, %s", chosen.folder, reason)
        return self._publish(chosen)

    def _runs(self) -> Iterator[tuple[str, RunConfig, dict[str, Any]]]:
        """The runs to train, each decided when those before it have finished."""
        if self.config.selection.tune > 0:
            for name, method, changes in trials(self.config, lambda: self.selection.candidates):
                run = self.config.run(name, method, **changes)
                if not self._decide(name, run):
                    return
                yield name, run, changes
            return
        several = len(self.config.seeds) > 1
        for method in self.config.methods:
            for seed in self.config.seeds:
                name = f"{method}-seed{seed}" if several else method
                run = self.config.run(name, method, seed=seed)
                if self._decide(name, run):
                    yield name, run, {}

    def _decide(self, name: str, run: RunConfig) -> bool:
        """Whether to train a run: as recorded before, or decided and recorded now."""
        decision = next(
            (earlier for earlier in self.selection.decision if earlier.folder == name), None
        )
        if decision is None:
            reason = self._reason_to_skip(run)
            decision = Decision(folder=name, train=reason is None, reason=reason)
            self._update(decision=[*self.selection.decision, decision])
            if reason is not None:
                logger.info("%s is not trained: %s", name, reason)
        return decision.train

    def _reason_to_skip(self, run: RunConfig) -> str | None:
        if not self.candidates:
            return None  # something has to be kept
        method = run.training.method
        if self.config.training.method == AUTO and self.config.selection.tune == 0:
            # Judged once for all seeds of a method, by the methods before it.
            others = [candidate for candidate in self.candidates if candidate.method != method]
            reason = reason_to_skip(method, others, self._rows_per_class) if others else None
            if reason is not None:
                return reason
        limit = self.config.selection.max_minutes
        if limit is None:
            return None
        spent = sum(candidate.seconds or 0.0 for candidate in self.selection.candidates)
        expected = self._expected_seconds(run)
        if spent + expected <= 60 * limit:
            return None
        return (
            f"it would take about {expected / 60:.1f} minutes, and {spent / 60:.1f} of "
            f"{limit:g} have passed"
        )

    def _expected_seconds(self, run: RunConfig) -> float:
        """How long a run will take: as others of its kind, or by the time of a forward pass."""
        tunes = get_method(run.training.method).fine_tunes
        of_an_epoch = [
            candidate.seconds
            / _epochs(self.config.run("", candidate.method, **candidate.settings), self.data)
            for candidate in self.selection.candidates
            if candidate.seconds is not None and get_method(candidate.method).fine_tunes == tunes
        ]
        if of_an_epoch:
            return float(np.mean(of_an_epoch)) * _epochs(run, self.data)
        return _measured_seconds(run, self.data)

    def _train_at_once(self, runs: Sequence[RunConfig]) -> list[str | None]:
        """Train runs of a batch in processes of their own; why each of them could not be trained.

        None where it is finished, or left to this process, as where its own died.
        """
        settings = self.config.selection
        reasons: list[str | None] = [None] * len(runs)
        if settings.workers == 1 and settings.executor == "local":
            return reasons
        known = [
            candidate for candidate in self.selection.candidates if candidate.reason is not None
        ]
        failed = {self.folder / candidate.folder for candidate in known}
        todo = [number for number, run in enumerate(runs) if not self._is_over(run, failed)]
        attempts = [
            Attempt(replace(runs[number], output_dir=runs[number].output_dir.resolve()))
            for number in todo
        ]
        execute = get_executor(settings.executor, settings.workers)
        with closing(execute(attempt, attempts)) as ends:
            for position, outcome in ends:
                if outcome is not None:
                    reasons[todo[position]] = outcome.reason
        return reasons

    def _is_over(self, run: RunConfig, failed: Collection[Path]) -> bool:
        record = read_record(run.output_dir)
        return run.output_dir in failed or (record is not None and record.status == "finished")

    def _train(
        self, name: str, run: RunConfig, changes: dict[str, Any], reason: str | None = None
    ) -> None:
        """Train a candidate, or find it finished, and record how it scores.

        Another process may have tried already, which failed for a ``reason``.
        """
        before = next(
            (
                earlier
                for earlier in self.selection.candidates
                if earlier.folder.endswith(f"/{name}")
            ),
            None,
        )
        if before is not None and before.reason is not None:
            return  # it failed before, as it would again
        method, seed = run.training.method, run.training.seed
        entry = CandidateRecord(
            method=method, seed=seed, folder=f"{CANDIDATES}/{name}", settings=changes
        )
        logger.info("candidate %s", name)
        try:
            if reason is not None:
                raise InputError(reason)
            train_run(run, resume=True, data=self.data, log_label_errors=not self.candidates)
        except Exception as error:
            known = explain(error)
            failed = read_record(run.output_dir)
            began = failed is not None and failed.status == "failed" and failed.began
            if known is None or not began or not self.candidates:
                raise
            logger.warning("%s could not be trained: %s", name, known)
            self._add(entry.model_copy(update={"reason": str(known)}))
            return
        candidate = self._scored(run)
        rows = len(candidate.correct)
        low, high = (float(end) for end in wilson(candidate.score, rows))
        done = read_record(run.output_dir)
        entry = entry.model_copy(
            update={
                "score": candidate.score,
                "standard_error": candidate.standard_error,
                "interval": (low, high),
                "nll": candidate.nll,
                "rows": rows,
                "seconds": None if done is None else done.timings.get("total"),
            }
        )
        self.candidates.append(candidate)
        self.finished.append(entry)
        self._add(entry)
        self._show(name, run, entry)

    def _show(self, name: str, run: RunConfig, entry: CandidateRecord) -> None:
        """Log how a candidate scores: on all its validation rows, and on those that all share."""
        own = RunMetrics.read(run.output_dir).splits["validation"]
        low, high = wilson(own["accuracy"], own["rows"])
        shared = ""
        if own["rows"] != entry.rows:
            shared = f"; {entry.score:.3f} on the {entry.rows} rows that all methods share"
        logger.info(
            "%s: accuracy %.3f (95 %% interval %.3f to %.3f) on %s, in %.0f s%s",
            name,
            own["accuracy"],
            low,
            high,
            counted(own["rows"], "validation row"),
            entry.seconds or 0.0,
            shared,
        )

    def _scored(self, run: RunConfig) -> Candidate:
        """How a finished run does on the validation rows that all candidates share."""
        from lpft.training.candidates import as_candidate, held_out_probe, holds_out_more

        alone = self.config.methods == ("lp",)
        if not alone and holds_out_more(self.data, run.training.method):
            fit = held_out_probe(self.data, run.training)
            scored, temperature = fit.validation, fit.calibration.temperature
            return as_candidate(run.training, scored.labels, scored.logits, temperature)
        saved = Predictions.read(run.output_dir, "validation", len(self.data.classes))
        temperature = RunMetrics.read(run.output_dir).temperature
        return as_candidate(run.training, saved.labels, saved.logits, temperature)

    def _add(self, entry: CandidateRecord) -> None:
        by_folder = {candidate.folder: candidate for candidate in self.selection.candidates} | {
            entry.folder: entry
        }
        self._update(candidates=list(by_folder.values()))

    def _update(self, **changes: Any) -> None:
        self.record = self.record.updated(selection=self.selection.model_copy(update=changes))
        self.record.write(self.folder)

    def _publish(self, chosen: CandidateRecord) -> RunResult:
        """Give the folder the chosen run's files, by links where the disk has them."""
        source = self.folder / chosen.folder
        own = RunRecord.read(source)
        staged = self.folder / WORK / "results"
        shutil.rmtree(staged, ignore_errors=True)
        for name in own.files:
            if name == ERRORS and not (source / name).is_file():
                continue  # its texts must not stay: the user removed it
            target = staged / name
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source / name, target)
        self.record = own.updated(
            status="running",
            started=self.record.started,
            selection=self.selection,
            finished=None,
        )
        self.record.write(self.folder)
        publish(staged, self.folder)
        self.record.updated(status="finished", finished=now()).write(self.folder)
        remove_leftovers(self.folder)
        return RunResult(self.folder, read_metrics(self.folder))


def _measured_seconds(run: RunConfig, data: TextData) -> float:
    """How long fine-tuning will take, by the time of a forward pass over some training texts."""
    from lpft.data.splits import VALIDATION_FOLDS
    from lpft.data.tokens import tokenize
    from lpft.model.inference import extract_features, resolve_device
    from lpft.model.loading import fresh_classifier

    classifier = fresh_classifier(data, run.training)
    rows = np.linspace(0, len(data.train) - 1, _TIMED_ROWS).round().astype(int)
    texts = [data.train.texts[row] for row in np.unique(rows)]
    tokens = tokenize(classifier.tokenizer, texts, classifier.max_length)
    device = resolve_device(run.training.device)
    extract_features(classifier.model, tokens, device=device)  # warm
    started = perf_counter()
    extract_features(classifier.model, tokens, device=device)
    per_row = (perf_counter() - started) / len(texts)
    trainings = 1
    if validation_kind(data, fine_tunes=True) == "folds":
        trainings += VALIDATION_FOLDS
    return _PASSES * per_row * len(data.train) * trainings * _epochs(run, data)


def _epochs(run: RunConfig, data: TextData) -> float:
    """Epochs of fine-tuning; 1 for linear probing."""
    return effective_epochs(run.training, len(data.train)) or 1.0


# A search for learning rate, epochs and method by Optuna's TPE, run by run or batch by batch.
#
# Its storage is the list of candidates in run.json: the study is built anew from it for every
# trial, with a sampler that is seeded by the trial's number. So a search that was stopped asks for
# the same runs as one that was not. Runs of a batch train at the same time: each is chosen by the
# scores of the batches before, and as if those chosen before it in its batch scored badly.


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
            known = {candidate.folder.rpartition("/")[2]: candidate for candidate in finished()}
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
    for candidate in before:
        study.add_trial(
            _as_trial(config, methods, searched, candidate.method, candidate.settings, candidate)
        )
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
            optuna.distributions.FloatDistribution(*RATE_RANGES[kind], log=True),
        ),
        "epochs": ("epochs", optuna.distributions.IntDistribution(*EPOCH_RANGE)),
    }
    return {name: ranges[name] for name in searched}
