"""Tasks from the Hugging Face Hub (or a local folder in the same layout)."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from lpft.data.releases import RawSplit
from lpft.errors import InputError


@dataclass(frozen=True)
class HubSource:
    """Where the Hub keeps a task: dataset, configuration, pinned commit and splits.

    ``splits`` maps our splits (``train``, ``test``, and where there are such, ``validation`` and
    ``ood/NAME``) to the Hub's.
    """

    id: str
    config: str
    revision: str
    splits: Mapping[str, str] = field(
        default_factory=lambda: {"train": "train", "test": "validation"}
    )


def read_hub(task: str, hub: HubSource, revision: str | None = None) -> dict[str, RawSplit]:
    """Every split of a task; labels are read by the names that the dataset gives its indices.

    Args:
        revision: a commit, tag or branch instead of the pinned commit.

    Raises:
        InputError: the Hub or the dataset cannot be reached, or a split is missing.
    """
    import datasets
    import pandas as pd

    revision = hub.revision if revision is None else revision
    source = f"{hub.id} ({hub.config}) at {revision} on the Hugging Face Hub"
    try:
        with _progress_on_terminals_only():
            found = datasets.load_dataset(hub.id, hub.config, revision=revision)
    # the Hub's client raises some twenty kinds of exceptions for one fact: there is no data
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{task} could not be loaded from {source} ({type(error).__name__}: {reason}); "
            "check the network and the revision, or give the official files with --data-dir"
        ) from error
    splits = {}
    for split, name in hub.splits.items():
        if name not in found:
            raise InputError(
                f"{source} has the splits {', '.join(found)}, expected '{name}': "
                "take another revision, or give the official files with --data-dir"
            )
        names = getattr(found[name].features.get("label"), "names", [])
        splits[split] = RawSplit(
            table=pd.DataFrame(found[name].to_dict(), dtype=object),
            # str: YAML reads an unquoted class name "no" in a dataset card as False
            labels={str(index): str(class_name) for index, class_name in enumerate(names)},
            source=f"{source}, split {name}",
        )
    return splits


@contextmanager
def _progress_on_terminals_only() -> Iterator[None]:
    import datasets

    quiet = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if quiet:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            datasets.enable_progress_bars()
