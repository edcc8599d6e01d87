"""Export as the stock model of the family, which Transformers loads without lpft."""

import inspect
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification

from lpft.errors import InputError
from lpft.export.stock import stock_classifier
from lpft.export.tokens import save_tokenizer
from lpft.export.written import Batch, Scorer, Written
from lpft.model import Classifier
from lpft.model.encoder import quiet_transformers


def write_transformers(classifier: Classifier, folder: Path) -> Written:
    """Config, weights and tokenizer of the stock model with the classifier's logits over T.

    Raises:
        InputError: it has no form in the family's stock model.
    """
    tokenizer = classifier.tokenizer
    stock = stock_classifier(classifier.model, tokenizer)
    inputs = inspect.signature(stock.model.forward).parameters
    with quiet_transformers():
        stock.model.save_pretrained(folder)
    save_tokenizer(tokenizer, inputs, folder)
    return Written(f"A {type(stock.model).__name__} of Transformers", stock.notes)


def read_transformers(folder: Path) -> Scorer:
    """The stock model as it is loaded.

    Raises:
        InputError: a weight is missing or too many, so that it would be random or ignored.
    """
    with quiet_transformers():
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    amiss = sorted(str(name) for names in report.values() for name in names)
    if amiss:
        raise InputError(
            f"the stock model and its weights do not agree on {amiss[0]}: use --format onnx"
        )
    model.eval()

    @torch.no_grad()
    def score(batch: Batch) -> NDArray[np.float32]:
        return model(**{name: torch.from_numpy(ids) for name, ids in batch.items()}).logits.numpy()

    return score
