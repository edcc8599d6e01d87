"""Tasks from the Hugging Face Hub (or a local folder in the same layout)."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lpft.data.releases import RawData, RawSplit
from lpft.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class HubSource:
    """Where the Hub keeps a task: dataset, configuration, pinned commit and splits.

    Attributes:
        splits: our splits (``train``, ``test``, and where there are such, ``validation`` and
            ``ood/NAME``) to the Hub's.
        labels: as in :class:`lpft.data.releases.RawSplit`, where the dataset gives its labels no
            names of its own.
        read: turns the dataset's rows (and the source's name, for messages) into the task's.
        notes: facts about this source that a report must repeat.
    """

    id: str
    config: str
    revision: str
    splits: Mapping[str, str] = field(
        default_factory=lambda: {"train": "train", "test": "validation"}
    )
    labels: Mapping[str, str] = field(default_factory=dict)
    read: "Callable[[pd.DataFrame, str], pd.DataFrame] | None" = None
    notes: tuple[str, ...] = ()


def read_hub(task: str, hub: HubSource, revision: str | None = None) -> RawData:
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
        where = f"{source}, split {name}"
        names = getattr(found[name].features.get("label"), "names", None)
        table = pd.DataFrame(found[name].to_dict(), dtype=object)
        splits[split] = RawSplit(
            table=table if hub.read is None else hub.read(table, where),
            # str: YAML reads an unquoted class name "no" in a dataset card as False
            labels=hub.labels if names is None else {str(i): str(n) for i, n in enumerate(names)},
            source=where,
        )
    return RawData(splits, hub.notes)


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
