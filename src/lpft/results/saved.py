"""A trained classifier opened for use: its model, and what its record says of its input.

Importing this loads no torch: a classifier may be computed by another library.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lpft.data.examples import Label, Text
from lpft.errors import InputError, named
from lpft.results.folder import read_record, recorded_config
from lpft.results.schema import RunRecord, UnusableRecord

if TYPE_CHECKING:
    import torch

    from lpft.data.examples import TextData
    from lpft.model import Classifier
    from lpft.results.run import Predictions
    from lpft.settings import TrainingSettings


@dataclass(frozen=True)
class SavedClassifier(ABC):
    """A classifier that gives logits of texts, whatever computes them.

    ``classes`` are in the order of the logits; the ``temperature`` divides them; below a largest
    probability of ``abstain_below`` it abstains, None for never. ``paired`` is whether it was
    trained on pairs, ``text_columns`` the columns that it read, None where these had no names.
    ``folder`` is the run's; ``task`` and ``template`` are those of its training, where it was on a
    task.
    """

    backend: ClassVar[str]
    folder: Path
    classes: tuple[Label, ...]
    temperature: float
    abstain_below: float | None
    paired: bool
    text_columns: tuple[str, ...] | None
    label_column: str
    task: str | None
    template: int

    @abstractmethod
    def logits(
        self,
        texts: Sequence[Text],
        *,
        rows: Sequence[int] | NDArray[np.int64] | None = None,
        description: str = "predicting",
        done: Callable[[int], object] | None = None,
    ) -> NDArray[np.float32]:
        """``V phi(x) + b`` of N texts before the temperature, N x C.

        ``rows`` are the texts' numbers for messages, 1 to N by default. ``done`` is called with the
        number of texts of each batch.

        Raises:
            InputError: a text is empty or no string, or texts and pairs are mixed.
        """

    def predicted(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """``softmax(f / T)``, N x C, of logits f before the temperature T."""
        from scipy.special import softmax

        return np.asarray(softmax(logits.astype(np.float64) / self.temperature, axis=1))

    def predict_proba(self, texts: Sequence[Text]) -> NDArray[np.float64]:
        """The probabilities of N texts, N x C, in the order of ``classes``."""
        return self.predicted(self.logits(texts))

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 over all that decides a prediction."""

    @property
    @abstractmethod
    def device_type(self) -> str:
        """The kind of device that computes, such as ``cpu``."""

    @property
    @abstractmethod
    def encoder_name(self) -> str:
        """The encoder's own name, or that of its family."""

    def validation(self) -> "Predictions":
        """The validation rows of the run as it predicted them.

        Raises:
            InputError: there are none, as of a classifier of ``TextClassifier.save``, or damaged.
        """
        return self._predictions("validation")

    def reference_logits(self) -> NDArray[np.float64] | None:
        """Logits of the run's test rows, or validation rows; None where neither are there."""
        for split in ("test", "validation"):
            with suppress(InputError):
                return self._predictions(split).logits
        return None

    def _predictions(self, split: str) -> "Predictions":
        from lpft.results.run import Predictions

        try:
            return Predictions.read(self.folder, split, len(self.classes))
        except UnusableRecord as problem:
            raise InputError(
                f"'{self.folder}' has no {split} predictions to choose a threshold by ({problem}): "
                f"expected a run of lpft train; or give {named('abstain_below')} itself"
            ) from problem


@dataclass(frozen=True)
class TorchClassifier(SavedClassifier):
    """A classifier that PyTorch computes, on ``device``."""

    backend = "torch"
    classifier: "Classifier"
    device: "torch.device"

    def logits(
        self,
        texts: Sequence[Text],
        *,
        rows: Sequence[int] | NDArray[np.int64] | None = None,
        description: str = "predicting",
        done: Callable[[int], object] | None = None,
    ) -> NDArray[np.float32]:
        from lpft.data.tokens import tokenize
        from lpft.model.inference import extract_features, head_logits

        model, length = self.classifier.model, self.classifier.max_length
        tokens = tokenize(self.classifier.tokenizer, texts, length, rows=rows)
        features = extract_features(
            model, tokens, device=self.device, description=description, done=done
        )
        return head_logits(model, features)

    def fingerprint(self) -> str:
        from lpft.model.inference import classifier_fingerprint

        return classifier_fingerprint(self.classifier)

    @property
    def device_type(self) -> str:
        return self.device.type

    @property
    def encoder_name(self) -> str:
        encoder = self.classifier.model.encoder
        return str(encoder.name_or_path or encoder.config.model_type)


def finished_config(folder: Path) -> dict[str, Any]:
    """The settings of the training in a folder; none for what ``TextClassifier.save`` wrote.

    Raises:
        InputError: the run is not finished, or was told to keep no weights.
    """
    record = read_record(folder)
    if record is not None and record.status != "finished":
        raise InputError(
            f"the run in '{folder}' is {record.status}, not finished: continue it with "
            f"lpft train --resume --output-dir {folder}"
        )
    config = (recorded_config(folder) if record is None else record.config) or {}
    if config.get("save_model") is False and not (folder / "config.json").exists():
        raise InputError(
            f"the run in '{folder}' was trained with {named('save_model=False')}, so it has no "
            "weights: train it again without that, or name another run"
        )
    return config


def open_saved(folder: Path, device: "str | torch.device" = "auto") -> TorchClassifier:
    """Load a run's folder, or what ``TextClassifier.save`` wrote, which has no record.

    Raises:
        InputError: the folder is missing, unfinished, damaged, or holds another kind of model.
    """
    from lpft.model import load_classifier
    from lpft.model.inference import resolve_device

    chosen = resolve_device(device)
    config = finished_config(folder)
    classifier = load_classifier(folder)
    model = classifier.model.config
    columns = model.text_columns
    if columns is None:  # of an earlier version, whose record has them where the user named them
        columns = config.get("text_columns")
    return TorchClassifier(
        folder=folder,
        classes=model.classes,
        temperature=float(model.temperature),
        abstain_below=model.abstain_below,
        paired=model.paired,
        text_columns=None if columns is None else tuple(columns),
        label_column=config.get("label_column", "label"),
        task=config.get("task"),
        template=config.get("template", 0),
        classifier=classifier,
        device=chosen,
    )


def model_at_start(
    folder: Path, record: RunRecord, data: "TextData", settings: "TrainingSettings"
) -> "Classifier":
    """The classifier that the run in ``folder`` began with: its base model, with a random head.

    Raises:
        InputError: the base model cannot be loaded, or is not the one of the training any more.
    """
    from lpft.model.inference import encoder_fingerprint
    from lpft.model.loading import fresh_classifier

    classifier = fresh_classifier(data, settings)
    known = None if record.fingerprints is None else record.fingerprints.encoder
    if known not in (None, encoder_fingerprint(classifier.model)):
        raise InputError(
            f"the weights of '{settings.model}' changed since '{folder}' was trained on them, and "
            "what was trained belongs to the old ones: restore them, or train it again"
        )
    return classifier


def columns_error(saved: SavedClassifier, path: Path, columns: Sequence[str] | None) -> InputError:
    """What to say where a file's text columns are two and training had one, or the other way round.

    ``columns`` are those that the user named; None where the column ``text`` or so was taken.
    """
    listed = "" if columns is None else f" ({', '.join(columns)})"
    if saved.paired:
        return InputError(
            f"{path}: the model was trained on pairs: expected two text columns, found "
            f"one{listed}: name two with {named('text_columns')}"
        )
    return InputError(
        f"{path}: the model was trained on single texts: expected one text column, found "
        f"two{listed}: name one with {named('text_columns')}"
    )
