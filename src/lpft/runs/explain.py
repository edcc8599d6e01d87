"""``lpft explain``: the training rows that predictions rest on, and the labels that look wrong.

The equations are those of :mod:`lpft.ntk.influence`.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from lpft.data import Examples, Text, TextData
from lpft.data.labels import class_weights
from lpft.data.splits import draw_rows, labelled_rows, validation_kind
from lpft.data.tokens import tokenize
from lpft.errors import InputError
from lpft.files import readable_size
from lpft.model.inference import encoder_fingerprint
from lpft.ntk import Options
from lpft.ntk.influence import Influence, InfluenceJob, TrainedRows, doubtful, extremes
from lpft.ntk.plan import Plan
from lpft.results.folder import check_replaceable, now, read_record, written_folder
from lpft.results.formats import counted, duration
from lpft.results.resume import recorded_data
from lpft.results.saved import TorchClassifier
from lpft.results.schema import (
    DoubtfulLabel,
    ExplainedText,
    ExplanationRecord,
    InfluentialRow,
    RunRecord,
    environment,
)
from lpft.runs.kernel_passes import labels_of, trained_pass
from lpft.settings import TrainingSettings
from lpft.settings.commands import ExplanationSettings
from lpft.settings.methods import get_method
from lpft.training.cache import cached_features
from lpft.training.finetuning import weights_by_class

logger = logging.getLogger(__name__)

ROWS_FILE, LABELS_FILE = "explanations.csv", "label-errors.csv"


class Explanation:
    """Explanations of a trained run's predictions, planned when made.

    Args:
        saved: the run's classifier.
        texts: those to explain; None for labels alone.

    Raises:
        InputError: the folder holds no finished run of ``lpft train``, or its training data changed
            or is not at hand, or as :class:`~lpft.ntk.influence.InfluenceJob`.
    """

    def __init__(
        self,
        saved: TorchClassifier,
        texts: Sequence[Text] | None,
        settings: ExplanationSettings,
    ) -> None:
        self._saved, self._texts, self._settings = saved, texts, settings
        self._started = perf_counter()
        self._record = trained_record(saved.folder)
        data = recorded_data(
            saved.folder, self._record, data_dir=settings.data_dir, splits=("train",)
        )
        training = TrainingSettings.read_own({**self._record.config, "device": settings.device})
        method = get_method(training.method)
        all_rows = _trained_rows(data, fine_tunes=method.fine_tunes)
        self.rows_in_all = len(all_rows)
        chosen = np.arange(len(all_rows))
        if settings.max_rows is not None:
            chosen = draw_rows(labels_of(all_rows), settings.max_rows)
        self.train = all_rows.select(chosen)
        trained = trained_pass(saved.folder, data, training)
        point, subject = trained.starting_points[0], trained.subject
        request = point.request
        if not method.fine_tunes_head:
            # Linear probing trains the head alone; contrastive tuning moves the encoder by a loss
            # of pairs of features, of which the kernel of the logits says nothing.
            request = replace(request, parameters=frozenset())
        self.method = method
        weights = weights_by_class(
            class_weights(training.class_weight, data.classes),
            labels_of(all_rows),
            len(data.classes),
        ).double()
        tokenizer, length = saved.classifier.tokenizer, saved.classifier.max_length
        tokens = tokenize(tokenizer, self.train.texts, length, rows=self.train.rows)
        features = None
        if not method.fine_tunes_head:
            # Linear probing has them in the cache; the next explanation finds any there.
            features = partial(
                cached_features,
                subject.classifier,
                tokens,
                encoder=encoder_fingerprint(subject.classifier),
                device=settings.device,
                description="reading texts",
            )
        named_parameters = subject.network.named_parameters()
        self._parameters = sum(named_parameters[name].numel() for name in request.parameters)
        self._job = InfluenceJob(
            subject,
            request,
            TrainedRows(
                tokens,
                labels_of(self.train),
                weights.numpy()[labels_of(self.train)],
                features,
            ),
            None if texts is None else tokenize(tokenizer, texts, length),
            Options(memory=settings.memory, device=settings.device),
            score=settings.score,
            labels=settings.label_errors > 0,
            temperature=float(saved.classifier.model.config.temperature),
        )

    @property
    def plan(self) -> Plan | None:
        """What the kernel costs; None where it follows from the features."""
        return self._job.plan

    def cost(self) -> str:
        """One line on what is about to be computed."""
        rows = counted(len(self.train), "training row")
        if len(self.train) < self.rows_in_all:
            rows += f" of {self.rows_in_all:,}, drawn with a fixed seed"
        what = rows if self._texts is None else f"{counted(len(self._texts), 'text')} and {rows}"
        if self.plan is None:
            reason = (
                "contrastive tuning moved the encoder by a loss of its own"
                if self.method.contrastive
                else f"{self.method.name} trains the head alone"
            )
            return f"kernel of {what}, from their features: {reason}"
        return (
            f"kernel of {what}, over the head and {self._parameters:,} parameters of the encoder: "
            f"about {duration(self.plan.seconds)}, {readable_size(self.plan.memory)} of memory at "
            "most"
        )

    def run(self) -> ExplanationRecord:
        """Compute the explanations, which leave no file."""
        logger.info("%s", self.cost())
        influence = self._job.run()
        explained = [] if self._texts is None else self._explained(influence)
        return ExplanationRecord(
            schema=ExplanationRecord.SCHEMA,
            run=self._saved.folder.resolve().name,
            method=self.method.name,
            score=self._settings.score,
            rows=len(self.train),
            rows_in_all=self.rows_in_all,
            parameters=self._parameters,
            texts=explained,
            labels=self._doubtful(influence) if self._settings.label_errors else None,
            plan=None if self.plan is None else self.plan.timed_record(),
            finished=now(),
            seconds=perf_counter() - self._started,
            **environment(self._saved.device),
        )

    def _explained(self, influence: Influence) -> list[ExplainedText]:
        assert self._texts is not None
        config = self._saved.classifier.model.config
        probability = softmax(influence.text_logits / config.temperature, axis=1).max(axis=1)
        explained = []
        for number, text in enumerate(self._texts):
            supporting, opposing = extremes(influence.total[number], self._settings.top)
            rows = {"supporting": supporting, "opposing": opposing}
            explained.append(
                ExplainedText(
                    text=_as_json(text),
                    label=config.classes[influence.classes[number]],
                    probability=float(probability[number]),
                    **{
                        side: [self._influential(influence, number, row) for row in of]
                        for side, of in rows.items()
                    },
                )
            )
        return explained

    def _influential(self, influence: Influence, number: int, row: int) -> InfluentialRow:
        return InfluentialRow(
            **self._row(row),
            score=float(influence.total[number, row]),
            head=float(influence.head[number, row]),
            encoder=float(influence.encoder[number, row]),
        )

    def _doubtful(self, influence: Influence) -> list[DoubtfulLabel]:
        """The rows whose label the others speak against, the most doubtful first."""
        assert influence.left_out is not None
        classes = self._saved.classifier.model.config.classes
        chosen, suggested = doubtful(influence, labels_of(self.train), self._settings.label_errors)
        return [
            DoubtfulLabel(
                **self._row(row),
                suggested=classes[better],
                margin=float(influence.left_out[row]),
            )
            for row, better in zip(chosen, suggested, strict=True)
        ]

    def _row(self, row: int) -> dict[str, Any]:
        classes = self._saved.classifier.model.config.classes
        return {
            "row": int(self.train.rows[row]),
            "text": _as_json(self.train.texts[row]),
            "label": classes[labels_of(self.train)[row]],
        }


def trained_record(folder: Path) -> RunRecord:
    """The record of a finished run, which says where its training rows are.

    Raises:
        InputError: there is none.
    """
    record = read_record(folder)
    if record is None:
        raise InputError(
            f"'{folder}' has no {RunRecord.FILE}, which names the training rows: give the folder "
            "of a run of lpft train; in Python TextClassifier.explain takes the rows themselves"
        )
    return record


def _trained_rows(data: TextData, *, fine_tunes: bool) -> Examples:
    """The rows that the run was trained on: all labelled ones where folds scored it."""
    folds = validation_kind(data, fine_tunes=fine_tunes) == "folds"
    return labelled_rows(data) if folds else data.train


def save_explanations(
    record: ExplanationRecord, folder: Path, *, overwrite: bool = False
) -> ExplanationRecord:
    """Write ``explanations.json`` and its tables as CSV to a folder of their own.

    Raises:
        InputError: the folder holds something else, or explanations and ``overwrite`` is false.
    """
    check_explanations(folder, overwrite=overwrite)
    with written_folder(folder) as staged:
        names = [ROWS_FILE] * bool(record.texts) + [LABELS_FILE] * (record.labels is not None)
        record = record.model_copy(update={"files": names})
        if record.texts:
            _write_csv(staged / ROWS_FILE, _influential_rows(record))
        if record.labels is not None:
            fields = list(DoubtfulLabel.model_fields)
            _write_csv(
                staged / LABELS_FILE, [label.model_dump() for label in record.labels], fields
            )
        record.write(staged)
    return record


def check_explanations(folder: Path, *, overwrite: bool) -> None:
    """:func:`check_replaceable` of what ``lpft explain`` writes."""
    check_replaceable(folder, ExplanationRecord.FILE, "explanations", overwrite=overwrite)


def _influential_rows(record: ExplanationRecord) -> list[dict[str, Any]]:
    """A row for each training row of each text."""
    return [
        {
            "text": number,
            "predicted": text.label,
            "probability": text.probability,
            "rank": rank,
            "row": row.row,
            "label": row.label,
            **{name: getattr(row, name) for name in ("score", "head", "encoder")},
            "training text": row.text,
        }
        for number, text in enumerate(record.texts, start=1)
        for rows in (text.supporting, text.opposing)
        for rank, row in enumerate(rows, start=1)
    ]


def _write_csv(path: Path, rows: list[dict[str, Any]], fields: list[str] | None = None) -> None:
    """Two texts of a pair stand in one cell, with a tab between them."""
    table = pd.DataFrame(rows, columns=fields, dtype=object)
    table = table.map(lambda value: "\t".join(value) if isinstance(value, list) else value)
    table.to_csv(path, index=False, lineterminator="\r\n")


def _as_json(text: Text) -> str | list[str]:
    return list(text) if isinstance(text, tuple) else text
