"""TextClassifier: LP-FT and its relatives as a scikit-learn estimator."""

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from lpft.analysis.inputs import as_array
from lpft.data import (
    Examples,
    Label,
    Text,
    TextData,
    encode_labels,
    infer_classes,
    stratified_holdout,
)
from lpft.data.checks import as_parameters, check_data
from lpft.data.duplicates import find_repetitions
from lpft.data.labels import label_list, show
from lpft.data.lengths import check_lengths
from lpft.data.splits import labelled_rows
from lpft.data.texts import check_columns, check_texts, text_columns, text_list
from lpft.distributed import check_environment
from lpft.errors import InputError, named
from lpft.files import write_text
from lpft.progress import visible_progress
from lpft.settings import (
    ClassWeight,
    Device,
    OutputSettings,
    Pooling,
    Precision,
    ProbeScoring,
    TrainingSettings,
    reset_unused,
    resolve,
)
from lpft.settings.commands import InfluenceScore
from lpft.settings.methods import AUTO, get_method

if TYPE_CHECKING:
    from lpft.model import Classifier
    from lpft.ntk.influence import Explanation
    from lpft.training.fit import Fit

logger = logging.getLogger(__name__)

PARAMETERS_FILE = "text_classifier.json"
RUN_RECORD, POINT_RECORD = "run.json", "interpolation.json"
"""The records of ``lpft train`` and ``interpolate``: ``config`` has the training's settings."""


class TextClassifier(ClassifierMixin, BaseEstimator):
    """A text classifier by linear probing, fine-tuning, LP-FT, LoRA and more methods, calibrated.

    ``f(x) = V phi(x) + b`` over a pre-trained encoder phi; probabilities are
    ``softmax(f(x) / T)`` with the temperature T fitted on validation texts (Guo et al., 2017).
    The parameters are the options of ``lpft train``; None takes the method's default. Those that
    have no effect with a method, such as ``epochs`` with ``lp``, are ignored, so that searches of
    scikit-learn may try several methods; the command line refuses them. ``method="auto"`` trains
    several methods and keeps the simplest within one standard error of the best
    (:mod:`lpft.analysis.selection`).

    Attributes:
        classes_: the C class names, sorted: strings, integers or booleans as the labels were given.
        model_: the ``LinearHeadClassifier`` (a ``PreTrainedModel``): ``model_.features(**tokens)``
            is phi (N x h), ``model_.head`` the ``nn.Linear`` of V and b.
        tokenizer_: its tokenizer, whose ``model_max_length`` is the training's.
        temperature_: T.
        abstain_below_: the confidence below which :meth:`abstains` is true, by ``target_accuracy``
            or ``target_coverage``; None without either, and where the accuracy cannot be promised.
        method_: the method that was trained, or with ``method="auto"`` chosen.
        selection_: with ``method="auto"`` the rule, the score of every candidate, the choice and
            its reason; otherwise None.
        history_: one row per evaluation and logging step of the training.
        findings_: what :mod:`lpft.data.checks` found in the data, with row numbers from 1; also
            logged as warnings, and not saved.

    Source: Kumar et al., ICLR 2022 (LP-FT); Tomihari and Sato, NeurIPS 2024.
    """

    def __init__(
        self,
        model: str = "minilm",
        *,
        method: str = "lp-ft",
        seed: int = 0,
        pooling: Pooling | None = None,
        prompt: str | None = None,
        label_words: Any = None,
        first_token: bool = False,
        head_bias: bool = True,
        max_length: int | None = None,
        epochs: float | None = None,
        contrastive_steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        patience: int | None = None,
        head_scale: float | None = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        prefix_length: int | None = None,
        peft_config: Any = None,
        probe_scoring: ProbeScoring | None = None,
        class_weight: ClassWeight | None = None,
        revision: str | None = None,
        device: Device = "auto",
        precision: Precision = "auto",
        gradient_accumulation_steps: int = 1,
        gradient_checkpointing: bool = False,
        report_to: str = "none",
        target_accuracy: float | None = None,
        target_coverage: float | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.method = method
        self.seed = seed
        self.pooling = pooling
        self.prompt = prompt
        self.label_words = label_words
        self.first_token = first_token
        self.head_bias = head_bias
        self.max_length = max_length
        self.epochs = epochs
        self.contrastive_steps = contrastive_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.patience = patience
        self.head_scale = head_scale
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha
        self.prefix_length = prefix_length
        self.peft_config = peft_config
        self.probe_scoring = probe_scoring
        self.class_weight = class_weight
        self.revision = revision
        self.device = device
        self.precision = precision
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.gradient_checkpointing = gradient_checkpointing
        self.report_to = report_to
        self.target_accuracy = target_accuracy
        self.target_coverage = target_coverage
        self.verbose = verbose

    def fit(
        self,
        texts: Sequence[Text],
        labels: ArrayLike,
        validation: tuple[Sequence[Text], ArrayLike] | None = None,
        *,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train on N texts (or pairs, as tuples of two) and their N labels, and calibrate.

        ``validation`` is (texts, labels) for the best epoch and the temperature. Without it linear
        probing takes its temperature from 5 folds and trains on all texts; so does fine-tuning of
        fewer than 300 texts, which then takes six trainings; of more, 10% of each class are held
        out, always the same rows.

        ``sample_weight`` are N weights of at least 0. They are divided by their mean, so that only
        their ratios count; a row of weight 0 is left out. Weights w multiply the cross-entropy of a
        row: linear probing minimises ``sum_i C w_i CE_i + ||V||^2 / 2``, also in its folds, whose
        scores are weighted means, and fine-tuning the mean of ``w_i CE_i`` over each batch; the
        temperature minimises the weighted mean of the NLL. What scores epochs and methods counts
        each row once, and rows of ``validation`` weigh 1.

        Raises:
            InputError: empty or unequal inputs, weights that are negative, not finite or all 0,
                fewer than two classes, multi-label or continuous labels, labels of several types, a
                label of validation that training lacks, a class weight of no class, pairs in one of
                the two only, a parameter of another type, a model that cannot be loaded.
        """
        from lpft.model.inference import check_precision, resolve_device
        from lpft.training.candidates import fit_data
        from lpft.training.fit import set_threshold

        check_environment()
        settings = reset_unused(self._settings())
        threshold = OutputSettings.read_own(self._parameters(), strict=True).threshold
        check_precision(settings.precision, resolve_device(settings.device))
        data = _training_data(texts, labels, validation, sample_weight)
        fine_tunes = settings.method == AUTO or get_method(settings.method).fine_tunes
        findings = check_data(data, fine_tunes=fine_tunes)
        with visible_progress(self.verbose):
            if settings.method == AUTO:
                result = self._fit_several(data, settings)
            else:
                result = fit_data(data, resolve(settings))
                self.method_ = settings.method
                self.selection_: dict[str, Any] | None = None
        result.classifier.model.cpu()
        set_threshold(result, threshold)
        trained = result.classifier
        self._take(trained, paired=trained.model.config.paired)
        self._trained = labelled_rows(data) if result.validation.kind == "folds" else data.train
        self.history_ = result.history
        findings += check_lengths(data, trained.token_counter, trained.max_length)
        self.findings_ = [
            replace(finding, message=as_parameters(finding.message)) for finding in findings
        ]
        for finding in self.findings_:
            logger.warning("%s", finding.line())
        return self

    def _fit_several(self, data: TextData, settings: TrainingSettings) -> "Fit":
        """The fit that the rule of ``lpft train --method auto`` chooses, which is recorded."""
        from lpft.analysis.selection import RULE
        from lpft.training.candidates import fit_several

        fits, candidates, choice, left_out = fit_several(data, settings)
        self.method_ = candidates[choice.chosen].method
        self.selection_ = {
            "rule": RULE,
            "chosen": self.method_,
            "reason": choice.reason,
            "candidates": [
                {
                    "method": candidate.method,
                    "score": candidate.score,
                    "standard_error": candidate.standard_error,
                    "nll": candidate.nll,
                    "rows": len(candidate.correct),
                }
                for candidate in candidates
            ],
            "standings": [asdict(standing) for standing in choice.standings],
            "left_out": left_out,
        }
        return fits[choice.chosen]

    def predict(self, texts: Sequence[Text]) -> NDArray[Any]:
        """The most probable class of each text, N names of the type given in training."""
        logits = self.logits(texts)
        return self.classes_[logits.argmax(axis=1)]

    def predict_proba(self, texts: Sequence[Text]) -> NDArray[np.float64]:
        """``softmax(f(x) / T)``, N x C, in the order of ``classes_``."""
        from scipy.special import softmax

        logits = self.logits(texts).astype(np.float64)
        return softmax(logits / self.temperature_, axis=1)

    def score(
        self,
        X: Sequence[Text],
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Accuracy: the share of texts X whose class y is predicted, weighted if weights are given.

        Labels are read as :meth:`fit` reads them; one that training lacks is never right.

        Raises:
            InputError: there are no texts, other numbers of labels or weights, or labels are of
                another type than the classes.
        """
        check_is_fitted(self, "model_")
        label_values, classes = label_list(y, "labels"), self.classes_.tolist()
        if label_values and isinstance(label_values[0], str) != isinstance(classes[0], str):
            raise InputError(
                f"the labels are {show(label_values)} and the classes {show(classes)}: expected "
                "labels of the type given in training"
            )
        predicted = self.predict(X).tolist()
        if not predicted or len(predicted) != len(label_values):
            raise InputError(
                f"there are {len(predicted)} texts but {len(label_values)} labels: expected a "
                "label for each of one text or more"
            )
        right = [one == label for one, label in zip(predicted, label_values, strict=True)]
        weights = None if sample_weight is None else _row_weights(sample_weight, len(predicted))
        return float(np.average(right, weights=weights))

    def abstains(self, texts: Sequence[Text]) -> NDArray[np.bool_]:
        """Whether the largest probability of each of N texts is below ``abstain_below_``, N.

        :meth:`predict` gives a class for these texts too.

        Raises:
            InputError: there is no threshold.
        """
        if self.abstain_below_ is None:
            raise InputError(
                f"there is no threshold to abstain below: fit with {named('target_accuracy')} or "
                f"{named('target_coverage')}, or set abstain_below_"
            )
        return np.asarray(self.predict_proba(texts).max(axis=1) < self.abstain_below_)

    def explain(
        self,
        texts: Sequence[Text] | None,
        *,
        train: tuple[Sequence[Text], ArrayLike] | None = None,
        score: InfluenceScore = "regression",
        label_errors: bool = False,
        memory: str | None = None,
    ) -> "Explanation":
        """What each training row contributes to the predictions of K texts.

        By the empirical NTK at the trained model (:mod:`lpft.ntk.influence` has the equations),
        split into what the head and what the encoder contribute.

        Args:
            texts: those to explain; None with ``label_errors`` alone.
            train: (texts, labels) that it was trained on. Those of :meth:`fit` by default; a loaded
                classifier does not have them.
            score: ``regression``, or ``first-order``, which needs no kernel among the training rows
                unless ``label_errors`` does.
            label_errors: whether to say whose labels the other rows speak against.
            memory: bytes that the process may take in all, such as ``"6GB"``.

        Raises:
            InputError: the training rows are not known, there is nothing to explain, the encoder's
                trained parameters are merged, as LoRA's are, or as :func:`lpft.ntk.empirical_ntk`.
        """
        check_is_fitted(self, "model_")
        from lpft.data.labels import class_weights
        from lpft.data.tokens import tokenize
        from lpft.ntk.influence import Explanation, InfluenceJob, TrainedRows, trained_request
        from lpft.ntk.options import Options
        from lpft.ntk.studied import studied_model
        from lpft.training.finetuning import weights_by_class

        if texts is None and not label_errors:
            raise InputError("there is nothing to explain: give texts, or label_errors=True")
        rows, classes = getattr(self, "_trained", None), tuple(self.classes_.tolist())
        if train is not None:
            if not isinstance(train, list | tuple) or len(train) != 2:
                raise InputError("train must be a tuple of two, (texts, labels)")
            _, rows = _examples(*train, classes, "training texts", "labels", paired=self._paired)
        if rows is None:
            raise InputError(
                "the classifier does not have its training rows, which are not saved with it: give "
                "train=(texts, labels)"
            )
        subject = studied_model(self, None, None)
        request = trained_request(subject, getattr(self, "method_", self.method))
        weights = weights_by_class(
            class_weights(self._settings().class_weight, classes),
            rows.labels,
            len(classes),
            rows.weights,
        ).double()
        length = self.tokenizer_.model_max_length
        explained = None if texts is None else text_list(texts)
        if explained is not None:
            check_texts(explained, paired=self._paired)
        try:
            with visible_progress(self.verbose):
                influences = InfluenceJob(
                    subject,
                    request,
                    TrainedRows(
                        tokenize(self.tokenizer_, rows.texts, length),
                        rows.labels,
                        weights.numpy()[rows.labels]
                        * (1.0 if rows.weights is None else rows.weights),
                    ),
                    None if explained is None else tokenize(self.tokenizer_, explained, length),
                    Options(memory=memory, device=self.device),
                    score=score,
                    labels=label_errors,
                    temperature=self.temperature_,
                ).run()
        finally:
            self.model_.cpu()
        return Explanation(influences, explained or [], rows, classes)

    @property
    def abstain_below_(self) -> float | None:
        check_is_fitted(self, "model_")
        return self.model_.config.abstain_below

    @abstain_below_.setter
    def abstain_below_(self, value: float | None) -> None:
        check_is_fitted(self, "model_")
        self.model_.config.abstain_below = value

    def logits(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """``V phi(x) + b`` before the temperature, N x C, in the order of ``classes_``."""
        from lpft.model.inference import head_logits

        features = self.features(texts)
        return head_logits(self.model_, features)

    def decision_function(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """What scikit-learn's tools rank by, before the temperature.

        The logits (N x C); of two classes the difference of their logits (N), which is positive
        where ``classes_[1]`` is predicted.
        """
        logits = self.logits(texts)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def features(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """phi(x), N x h, in evaluation mode.

        Raises:
            InputError: a text is empty, texts and pairs are mixed, or they are pairs where training
                had single texts or the other way round.
        """
        check_is_fitted(self, "model_")
        from lpft.data.tokens import tokenize
        from lpft.model.inference import extract_features, resolve_device

        items = text_list(texts)
        check_columns(texts, self.model_.config.text_columns)
        check_texts(items, paired=self._paired)
        tokens = tokenize(self.tokenizer_, items, self.tokenizer_.model_max_length)
        device = resolve_device(self.device)
        try:
            with visible_progress(self.verbose):
                return extract_features(self.model_, tokens, device=device)
        finally:
            if device.type != "cpu":
                self.model_.cpu()

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write model and tokenizer in Hugging Face form to a new or empty folder.

        The parameters and ``history_`` go along, in a file of their own.

        Raises:
            InputError: the folder holds files and ``overwrite`` is not set, or cannot be written.
        """
        check_is_fitted(self, "model_")
        from lpft.model import Classifier, save_classifier

        target = Path(folder)
        if target.is_file() or (target.is_dir() and any(target.iterdir()) and not overwrite):
            raise InputError(
                f"'{target}' exists and is not an empty folder: name another, or pass "
                "overwrite=True for a folder"
            )
        if (target / RUN_RECORD).exists():
            raise InputError(f"'{target}' contains a run of lpft train: name another folder")
        training = {
            # of a PEFT configuration the content, as its file may be gone where this is loaded
            "parameters": self._parameters()
            | {
                "class_weight": self._settings().class_weight,
                "label_words": self._settings().label_words,
                "peft_config": self._settings().peft_config,
            },
            "paired": self._paired,
            "history": getattr(self, "history_", None),
            "method": getattr(self, "method_", None),
            "selection": getattr(self, "selection_", None),
        }
        text = json.dumps(training, indent=2, default=_json_value) + "\n"
        try:
            target.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target, prefix=".saving-") as staged:
                save_classifier(Classifier(self.model_, self.tokenizer_), Path(staged))
                write_text(Path(staged) / PARAMETERS_FILE, text)
                for path in Path(staged).iterdir():
                    path.replace(target / path.name)
        except OSError as error:
            raise InputError(f"'{target}' cannot be written ({error.strerror})") from error

    @classmethod
    def load(cls, folder: str | Path, *, device: Device = "auto") -> Self:
        """A fitted classifier from what :meth:`save` or ``lpft train`` wrote.

        It has the parameters of its training, so that ``clone(loaded).fit`` repeats it. Folders of
        earlier versions do not hold them: there ``model`` is the folder, and parameters that the
        weights do not show have their defaults.

        Raises:
            InputError: the folder is missing, damaged, or holds another kind of model.
        """
        from lpft.model import load_classifier

        classifier = load_classifier(Path(folder))
        config = classifier.model.config
        training = _saved_training(Path(folder))
        if training is not None:
            training["parameters"] = _named_as_classes(training["parameters"], config.classes)
        else:
            parameters = {
                "model": str(folder),
                "pooling": config.pooling,
                "head_bias": config.head_bias,
                "max_length": classifier.max_length,
            }
            training = {"parameters": parameters}
        names = cls._get_param_names()
        parameters = {
            name: value for name, value in training["parameters"].items() if name in names
        }
        estimator = cls(**parameters)
        estimator._take(classifier, paired=training.get("paired", config.paired))
        if training.get("history") is not None:
            estimator.history_ = training["history"]
            estimator.method_ = training.get("method") or estimator.method
            estimator.selection_ = training.get("selection")
        return estimator.set_params(device=device)

    @classmethod
    def untrained(
        cls, model: str, classes: Sequence[Label], seed: int = 0, **parameters: Any
    ) -> Self:
        """The model before any training, with the random head of ``seed`` or that of label words.

        Args:
            model: as in the constructor.
            classes: the C class names, in the order that the logits shall have.
            parameters: further parameters of the constructor.

        Raises:
            InputError: fewer than two classes, a repeated one, names of several types, a parameter
                of another type or outside its range, or a model that cannot be loaded.
        """
        from lpft.model.loading import untrained_classifier
        from lpft.model.prompts import start_at_words
        from lpft.settings.values import read_template

        names = label_list(classes, "classes")
        if len(names) < 2 or len(set(names)) < len(names):
            raise InputError(f"the classes are {show(names)}: expected at least 2 different names")
        estimator = cls(model, seed=seed, **parameters)
        settings = estimator._settings()
        paired = settings.prompt is not None and read_template(settings.prompt).paired
        classifier = untrained_classifier(settings, tuple(names), paired=paired)
        if classifier.words is not None:
            start_at_words(classifier.model.head, classifier.words)
        estimator._take(classifier, paired=None)
        return estimator

    def __sklearn_tags__(self) -> Any:
        """That it takes texts and no table of numbers, for scikit-learn's own checks."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def _settings(self) -> TrainingSettings:
        return TrainingSettings.read_own(self._parameters(), strict=True)

    def _parameters(self) -> dict[str, Any]:
        """The parameters, with NumPy's numbers (of a grid, say) as Python's."""
        return {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in self.get_params().items()
        }

    def _take(self, classifier: "Classifier", *, paired: bool | None) -> None:
        """``paired``: whether it was trained on pairs; None where it was not trained."""
        self.model_ = classifier.model
        self.tokenizer_ = classifier.tokenizer
        self.classes_ = _class_array(classifier.model.config.classes)
        self.temperature_ = float(classifier.model.config.temperature)
        self._paired = paired


def _class_array(classes: Sequence[Label]) -> NDArray[Any]:
    """Class names as an array; integers that no integer type of NumPy holds together stay exact."""
    array = np.array(classes)
    rounded = array.dtype.kind == "f" and isinstance(classes[0], int)
    return np.array(classes, dtype=object) if rounded else array


def _training_data(
    texts: Sequence[Text],
    labels: ArrayLike,
    validation: tuple[Sequence[Text], ArrayLike] | None,
    sample_weight: ArrayLike | None,
) -> TextData:
    """The checked rows of training and validation; where that is None, some are held out for it."""
    columns = text_columns(texts)
    classes, train = _examples(texts, labels, None, "texts", "labels", sample_weight=sample_weight)
    if validation is None:
        assert train.labels is not None
        repeats = find_repetitions(train.texts).near
        rows, held_out = stratified_holdout(train.labels, repeats=repeats)
        return TextData(
            "texts",
            classes,
            train.select(rows),
            train.select(held_out),
            text_columns=columns,
            held_out=True,
        )
    if not isinstance(validation, list | tuple) or len(validation) != 2:
        length = f" of {len(validation)}" if isinstance(validation, list | tuple) else ""
        raise InputError(
            f"validation is a {type(validation).__name__}{length}: expected a tuple of two, "
            "(texts, labels)"
        )
    paired = isinstance(train.texts[0], tuple)
    _, examples = _examples(
        *validation, classes, "validation texts", "validation labels", paired=paired
    )
    check_columns(validation[0], columns, "validation texts")
    return TextData("texts", classes, train, examples, text_columns=columns)


def _examples(
    texts: Sequence[Text],
    labels: ArrayLike,
    classes: tuple[Label, ...] | None,
    texts_name: str,
    labels_name: str,
    *,
    paired: bool | None = None,
    sample_weight: ArrayLike | None = None,
) -> tuple[tuple[Label, ...], Examples]:
    """The class names (inferred where None) and the rows, checked; names are for messages.

    Rows of weight 0 are left out, and classes that have no others.
    """
    texts = text_list(texts, texts_name)
    label_values = label_list(labels, labels_name)
    if len(texts) != len(label_values):
        raise InputError(
            f"there are {len(texts)} {texts_name} but {len(label_values)} {labels_name}"
        )
    if not texts:
        raise InputError(f"there are no {texts_name}: expected at least one")
    # here, before any row is held out: a message names the row that the user gave
    check_texts(texts, texts_name, paired=paired)
    rows, weights = np.arange(len(texts)), None
    if sample_weight is not None:
        weights = _row_weights(sample_weight, len(texts))
        rows = np.flatnonzero(weights)
        weights = weights[rows] / weights.max()  # their sum may be more than a number can be
        weights /= weights.mean()
    labels_of_rows = [label_values[row] for row in rows]
    if classes is None:
        classes = infer_classes(labels_of_rows, f"the {labels_name}")
    return classes, Examples(
        ids=[str(row) for row in rows],
        texts=[texts[row] for row in rows],
        labels=encode_labels(labels_of_rows, classes, f"the {labels_name}"),
        weights=weights,
        rows=rows + 1,
    )


def _row_weights(sample_weight: Any, rows: int) -> NDArray[np.float64]:
    """``sample_weight`` as an array of ``rows`` numbers, none of them negative."""
    try:
        weights = as_array(sample_weight, "the sample_weight", np.float64)
    except InputError as error:
        raise InputError(
            f"the sample_weight are {show([sample_weight])}: expected {rows} numbers of at least 0"
        ) from error
    if weights.shape != (rows,):
        raise InputError(
            f"the sample_weight have shape {weights.shape}: expected one number for each of {rows} "
            "texts"
        )
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise InputError(
            f"the sample_weight of text {wrong[0] + 1} is {weights[wrong[0]]:g}: expected a finite "
            "number of at least 0"
        )
    if not weights.any():
        raise InputError(
            f"the sample_weight of all {rows} texts is zero, and such rows are left out: expected "
            "numbers above 0"
        )
    return weights


def _saved_training(folder: Path) -> dict[str, Any] | None:
    """What :meth:`TextClassifier.save` wrote beside the weights, or the settings of a run.

    None where there is neither.

    Raises:
        InputError: the file is damaged.
    """
    saved = _json_object(folder / PARAMETERS_FILE)
    if saved is None:
        records = (_json_object(folder / name) for name in (RUN_RECORD, POINT_RECORD))
        config = next((record for record in records if record is not None), {}).get("config")
        return {"parameters": config} if isinstance(config, dict) else None
    expected: dict[str, tuple[type, ...]] = {
        "parameters": (dict,),
        "paired": (bool, type(None)),
        "history": (list, type(None)),
    }
    if not all(isinstance(saved.get(name, ...), kinds) for name, kinds in expected.items()):
        raise InputError(
            f"'{folder / PARAMETERS_FILE}' is damaged: expected {', '.join(expected)}; save the "
            "classifier again, or remove the file to load without its parameters"
        )
    return saved


def _named_as_classes(parameters: dict[str, Any], classes: Sequence[Label]) -> dict[str, Any]:
    """Parameters from JSON, whose keys are text, with the names of classes as keys again."""
    names = {str(name): name for name in classes}
    by_class = {
        name: {names.get(key, key): value for key, value in parameters[name].items()}
        for name in ("class_weight", "label_words")
        if isinstance(parameters.get(name), dict)
    }
    return parameters | by_class


def _json_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, empty for another value, or None where there is no file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"'{path}' cannot be read ({reason}): restore it, or remove it to load the classifier "
            "without its parameters"
        ) from error
    return value if isinstance(value, dict) else {}


def _json_value(value: Any) -> Any:
    """NumPy's numbers as Python's, and paths as text."""
    return fspath(value) if isinstance(value, PathLike) else value.item()
