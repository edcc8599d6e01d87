"""TextClassifier: LP-FT and its relatives as a scikit-learn estimator."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from lpft.data import Examples, Label, Text, encode_labels, infer_classes, stratified_holdout
from lpft.data.examples import check_pairs, text_list
from lpft.data.labels import label_list, show
from lpft.errors import InputError
from lpft.progress import visible_progress
from lpft.settings import (
    ClassWeight,
    Device,
    Pooling,
    Precision,
    TrainingSettings,
    check_settings,
    resolve,
)
from lpft.training.kept import KeptTraining, read_kept, write_kept

if TYPE_CHECKING:
    from lpft.model import Classifier


class TextClassifier(ClassifierMixin, BaseEstimator):
    """A text classifier by linear probing, fine-tuning, LP-FT, LoRA or LP-LoRA, calibrated.

    ``f(x) = V phi(x) + b`` over a pre-trained encoder phi; probabilities are
    ``softmax(f(x) / T)`` with the temperature T fitted on validation texts (Guo et al., 2017).
    The parameters are the options of ``lpft train``; None takes the method's default.

    Attributes:
        classes_: the C class names, sorted: strings, integers or booleans as the labels were given.
        model_: the ``LinearHeadClassifier`` (a ``PreTrainedModel``): ``model_.features(**tokens)``
            is phi (N x h), ``model_.head`` the ``nn.Linear`` of V and b.
        tokenizer_: its tokenizer, whose ``model_max_length`` is the training's.
        temperature_: T.
        history_: one row per evaluation and logging step of the training.

    Source: Kumar et al., ICLR 2022 (LP-FT); Tomihari and Sato, NeurIPS 2024.
    """

    def __init__(
        self,
        model: str = "minilm",
        *,
        method: str = "lp-ft",
        seed: int = 0,
        pooling: Pooling | None = None,
        head_bias: bool = True,
        max_length: int = 128,
        epochs: float | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        head_scale: float | None = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        class_weight: ClassWeight | None = None,
        revision: str | None = None,
        device: Device = "auto",
        precision: Precision = "float32",
        report_to: str = "none",
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.method = method
        self.seed = seed
        self.pooling = pooling
        self.head_bias = head_bias
        self.max_length = max_length
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.head_scale = head_scale
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha
        self.class_weight = class_weight
        self.revision = revision
        self.device = device
        self.precision = precision
        self.report_to = report_to
        self.verbose = verbose

    def fit(
        self,
        texts: Sequence[Text],
        labels: ArrayLike,
        validation: tuple[Sequence[Text], ArrayLike] | None = None,
    ) -> Self:
        """Train on N texts (or pairs, as tuples of two) and their N labels, and calibrate.

        ``validation`` is (texts, labels) for the best epoch and the temperature; without it 10% of
        each class are held out, always the same rows.

        Raises:
            InputError: empty or unequal inputs, fewer than two classes, multi-label or continuous
                labels, labels of several types, a label of validation that training lacks, pairs in
                one of the two only, a parameter of another type, a model that cannot be loaded.
        """
        from lpft.model.fingerprint import encoder_fingerprint
        from lpft.model.inference import check_precision, resolve_device
        from lpft.training.cache import default_cache_dir
        from lpft.training.fit import fit_classifier
        from lpft.training.inputs import prepare_split

        settings = resolve(self._settings())
        check_precision(settings.precision, resolve_device(settings.device))
        classes, train = _examples(texts, labels, None, "texts", "labels")
        paired = bool(train.texts) and isinstance(train.texts[0], tuple)
        if validation is None:
            assert train.labels is not None
            train_rows, validation_rows = stratified_holdout(train.labels)
            held_out = train.select(validation_rows)
            train = train.select(train_rows)
        else:
            if not isinstance(validation, list | tuple) or len(validation) != 2:
                found = f" of {len(validation)}" if isinstance(validation, list | tuple) else ""
                raise InputError(
                    f"validation is a {type(validation).__name__}{found}: expected a tuple of two, "
                    "(texts, labels)"
                )
            _, held_out = _examples(*validation, classes, "validation texts", "validation labels")
            check_pairs(held_out.texts, "validation texts", paired=paired)
        with visible_progress(self.verbose):
            classifier = self._build(classes, paired=paired)
            encoder = encoder_fingerprint(classifier.model)
            train_inputs, validation_inputs = (
                prepare_split(
                    classifier,
                    examples,
                    settings,
                    encoder=encoder,
                    cache_dir=default_cache_dir(),
                    name=name,
                )
                for name, examples in (("train", train), ("validation", held_out))
            )
            with tempfile.TemporaryDirectory(prefix="lpft-") as folder:
                result = fit_classifier(
                    classifier,
                    train_inputs,
                    validation_inputs,
                    settings,
                    metric="accuracy",
                    folder=Path(folder),
                    cache_dir=default_cache_dir(),
                )
        result.classifier.model.cpu()
        self._take(result.classifier, paired=paired)
        self.history_ = result.history
        return self

    def predict(self, texts: Sequence[Text]) -> NDArray[Any]:
        """The most probable class of each text, N names of the type given in training."""
        logits = self.logits(texts)
        return self.classes_[logits.argmax(axis=1)]

    def predict_proba(self, texts: Sequence[Text]) -> NDArray[np.float64]:
        """``softmax(f(x) / T)``, N x C, in the order of ``classes_``."""
        from scipy.special import softmax

        logits = self.logits(texts).astype(np.float64)
        return softmax(logits / self.temperature_, axis=1)

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

        texts = text_list(texts)
        if self._paired is not None:
            check_pairs(texts, "texts", paired=self._paired)
        tokens = tokenize(self.tokenizer_, texts, self.tokenizer_.model_max_length)
        try:
            with visible_progress(self.verbose):
                return extract_features(self.model_, tokens, device=resolve_device(self.device))
        finally:
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
        if (target / "run.json").exists():
            raise InputError(f"'{target}' holds a run of lpft train: name another folder")
        try:
            target.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target, prefix=".saving-") as staged:
                save_classifier(Classifier(self.model_, self.tokenizer_), Path(staged))
                history = getattr(self, "history_", None)
                kept = KeptTraining(self.get_params(), self._paired, history)
                write_kept(Path(staged), kept)
                for path in Path(staged).iterdir():
                    path.replace(target / path.name)
        except OSError as error:
            raise InputError(f"'{target}' cannot be written ({error.strerror})") from error

    @classmethod
    def load(cls, folder: str | Path, *, device: Device = "auto") -> Self:
        """A fitted classifier from what :meth:`save` or ``lpft train`` wrote.

        It has the parameters of its training, so that ``clone(loaded).fit`` repeats it. Folders of
        earlier versions do not hold them: there ``model`` is the folder, and what its weights do
        not tell has its default.

        Raises:
            InputError: the folder is missing, damaged, or holds another kind of model.
        """
        from lpft.model import load_classifier

        classifier = load_classifier(Path(folder))
        config = classifier.model.config
        kept = read_kept(Path(folder), paired=config.paired)
        known = cls._get_param_names()
        if kept is None:
            estimator = cls(
                model=str(folder),
                pooling=config.pooling,
                head_bias=config.head_bias,
                max_length=classifier.max_length,
            )
            estimator._take(classifier, paired=config.paired)
        else:
            given = {name: kept.parameters[name] for name in known if name in kept.parameters}
            estimator = cls(**given)
            estimator._take(classifier, paired=kept.paired)
            if kept.history is not None:
                estimator.history_ = kept.history
        return estimator.set_params(device=device)

    @classmethod
    def untrained(
        cls, model: str, classes: Sequence[Label], seed: int = 0, **parameters: Any
    ) -> Self:
        """The model before any training, with the random head of ``seed``.

        Args:
            model: as in the constructor.
            classes: the C class names, in the order that the logits shall have.
            parameters: further parameters of the constructor.

        Raises:
            InputError: fewer than two classes, a repeated one, names of several types, a parameter
                of another type or outside its range, or a model that cannot be loaded.
        """
        names = label_list(classes, "classes")
        if len(names) < 2 or len(set(names)) < len(names):
            raise InputError(f"the classes are {show(names)}: expected at least 2 different names")
        estimator = cls(model, seed=seed, **parameters)
        check_settings(estimator._settings())
        estimator._take(estimator._build(tuple(names)), paired=None)
        return estimator

    def _settings(self) -> TrainingSettings:
        """The parameters, NumPy's numbers (of a grid, say) as Python's."""
        given = self.get_params()
        del given["verbose"]
        plain = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in given.items()
        }
        return TrainingSettings(**plain)

    def _build(self, classes: tuple[Label, ...], *, paired: bool = False) -> "Classifier":
        from lpft.model import build_classifier

        settings = self._settings()
        return build_classifier(
            settings.model,
            classes,
            seed=settings.seed,
            pooling=settings.pooling,
            head_bias=settings.head_bias,
            max_length=settings.max_length,
            revision=settings.revision,
            paired=paired,
        )

    def _take(self, classifier: "Classifier", *, paired: bool | None) -> None:
        """``paired``: whether it was trained on pairs; None where it was not trained."""
        self.model_ = classifier.model
        self.tokenizer_ = classifier.tokenizer
        self.classes_ = np.array(classifier.model.config.classes)
        self.temperature_ = float(classifier.model.config.temperature)
        self._paired = paired


def _examples(
    texts: Sequence[Text],
    labels: ArrayLike,
    classes: tuple[Label, ...] | None,
    texts_name: str,
    labels_name: str,
) -> tuple[tuple[Label, ...], Examples]:
    """The class names (inferred where None) and the rows, checked; names are for messages."""
    texts = text_list(texts, texts_name)
    given = label_list(labels, labels_name)
    if len(texts) != len(given):
        raise InputError(f"there are {len(texts)} {texts_name} but {len(given)} {labels_name}")
    if classes is None:
        classes = infer_classes(given, f"the {labels_name}")
    return classes, Examples(
        ids=[str(row) for row in range(len(texts))],
        texts=texts,
        labels=encode_labels(given, classes, f"the {labels_name}"),
    )
