"""What a finished run was made from, read again by steps that look inside it."""

from dataclasses import dataclass
from pathlib import Path

from lpft.data import TextData, fingerprint, load_data
from lpft.errors import InputError
from lpft.model import Classifier
from lpft.model.inference import encoder_fingerprint
from lpft.model.loading import fresh_classifier
from lpft.results.run import Run
from lpft.settings.configs import RunConfig, make_config
from lpft.training.cache import SplitInputs, prepare_split


@dataclass(frozen=True)
class ReopenedRun:
    """A run's settings, its data, and its classifier as it was before any training."""

    config: RunConfig
    data: TextData
    classifier: Classifier
    encoder: str

    def inputs(self, split: str) -> SplitInputs:
        """Tokens, labels and phi_0 of a split, from the cache of frozen features."""
        return prepare_split(
            self.classifier,
            self.data.splits()[split],
            self.config.training,
            encoder=self.encoder,
            name=split,
        )


def reopen(run: Run) -> ReopenedRun:
    """Read the data and the model of a run again.

    Raises:
        InputError: they cannot be read, or are no longer those of the run.
    """
    config = make_config(run.config, Path(run.folder))
    data = load_data(config.data)
    classifier = fresh_classifier(data, config.training)
    encoder = encoder_fingerprint(classifier.model)
    found = {"encoder": encoder, **{f"data/{k}": v for k, v in fingerprint(data).items()}}
    changed = [name for name, value in run.fingerprints.items() if found.get(name) != value]
    if changed:
        raise InputError(
            f"the {changed[0].replace('data/', 'data of ')} changed since '{run.folder}' was "
            "trained: restore it, or start the experiment again in another folder"
        )
    return ReopenedRun(config, data, classifier, encoder)
