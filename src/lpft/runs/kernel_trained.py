"""The kernel of a trained classifier, over the parameters that its training moved."""

from pathlib import Path

from lpft.data import TextData
from lpft.errors import InputError
from lpft.model import Classifier
from lpft.model.adapters import load_adapter
from lpft.model.fingerprint import encoder_fingerprint
from lpft.ntk.inputs import open_subject
from lpft.results.folder import read_record
from lpft.runs.kernel_starts import Pass, make_start, run_parameter_set
from lpft.runs.saved import open_saved
from lpft.settings import TrainingSettings, get_method
from lpft.training.inputs import fresh_classifier

TRAINED = "trained"


def trained_pass(folder: Path, data: TextData, settings: TrainingSettings) -> Pass:
    """The kernel of a trained classifier over what its method trains, as that of its start is.

    Of a method with an adapter that is the adapter's factors, which lie beside the weights that
    they were merged into; of a classifier without a record, all parameters.

    Raises:
        InputError: the folder holds no finished run, one of other classes than the data's, an
            adapter that cannot be loaded, or the model that it was trained on has changed.
    """
    saved = open_saved(folder, settings.device)
    if saved.classifier.model.config.classes != data.classes:
        raise InputError(
            f"'{folder}' was trained on the classes {list(saved.classifier.model.config.classes)}, "
            f"the data has {list(data.classes)}: give the data of its training"
        )
    record = read_record(folder)
    method = None if record is None else get_method(record["config"]["method"])
    parameter_set = "all" if method is None else run_parameter_set(method)
    model, tokens = saved.classifier.model, saved.classifier
    encoder = encoder_fingerprint(model)
    if method is None or method.adapter is None:
        subject = open_subject(model, tokens.tokenizer, tokens.max_length)
        names = {name for name, _ in model.encoder.named_parameters()}
    else:
        assert record is not None
        known = record.get("fingerprints", {}).get("encoder")
        adapted = load_adapter(_model_at_start(folder, known, data, settings).model, folder)
        subject = open_subject(adapted, tokens.tokenizer, tokens.max_length)
        parameters = subject.classifier.encoder.named_parameters()
        names = {name for name, parameter in parameters if parameter.requires_grad}
    head = subject.head
    bias = None if head.bias is None else head.bias.detach().clone()
    start = make_start(
        TRAINED, TRAINED, (head.weight.detach().clone(), bias), parameter_set, frozenset(names)
    )
    return Pass(subject, encoder, (start,))


def _model_at_start(
    folder: Path, fingerprint: str | None, data: TextData, settings: TrainingSettings
) -> Classifier:
    """The classifier that the adapter was added to."""
    classifier = fresh_classifier(data, settings)
    if fingerprint not in (None, encoder_fingerprint(classifier.model)):
        raise InputError(
            f"the weights of '{settings.model}' changed since '{folder}' was trained on them, and "
            "its adapter's factors belong to the old ones: restore them, or train it again"
        )
    return classifier
