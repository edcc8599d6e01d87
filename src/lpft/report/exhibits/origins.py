"""From the runs that a number names to their places in the page."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lpft.report.grid import Origin
from lpft.report.kernels.views import KernelView
from lpft.report.numbers import plain, whole
from lpft.report.outputs import relative_link
from lpft.report.run_views import RunView, UnreadView


@dataclass(frozen=True)
class Place:
    """Where the page shows a folder: a heading that it shares with its kin, its name, a link."""

    kin: str
    name: str
    address: str


def page_places(
    runs: Sequence[RunView],
    kernels: Sequence[KernelView],
    unread: Sequence[UnreadView],
    copies: Mapping[Path, Path],
) -> dict[Path, Place]:
    """Every folder that the page shows; runs and kernels of one setting are kin.

    ``copies`` has the folder that is shown for each one that holds the same.
    """
    places = {}
    for shown in unread:
        kin = f"{shown.folder.state}, not in the numbers below"
        places[shown.folder.folder] = Place(kin, shown.folder.name, f"#{shown.anchor}")
    for view in runs:
        kin = f"{view.run.data_name}, {view.setting}, seed"
        places[view.run.folder] = Place(kin, str(view.run.seed), f"#{view.anchor}")
    for found in kernels:
        seed = found.kernels.seed
        kin = f"kernels of {found.kernels.data_name}" + ("" if seed is None else ", seed")
        name = found.kernels.name if seed is None else whole(seed)
        places[found.kernels.folder] = Place(kin, name, f"#{found.slug}")
    return places | {copy: places[shown] for copy, shown in copies.items()}


class Tracer:
    """Finds the folders of an experiment's numbers in the page.

    ``places`` has every folder that the page shows. Other folders of the experiment are linked as
    files; what is not there, or outside of the experiment, has no link.
    """

    def __init__(self, experiment: Path, page_folder: Path, places: Mapping[Path, Place]) -> None:
        self._experiment = experiment.resolve()
        self._page_folder = page_folder
        self._places = {plain(folder.resolve()): place for folder, place in places.items()}

    def __call__(self, runs: Sequence[str]) -> tuple[Origin, ...]:
        """The origins of one number, of a kind together, each once and in the given order."""
        kinds: dict[str, list[tuple[str, str | None]]] = {}
        for run in dict.fromkeys(runs):
            kin, link = self._find(run)
            kinds.setdefault(kin, []).append(link)
        return tuple(Origin(kin, tuple(links)) for kin, links in kinds.items())

    def _find(self, run: str) -> tuple[str, tuple[str, str | None]]:
        folder = Path(os.path.normpath(self._experiment / run))
        place = self._places.get(str(folder))
        if place is not None:
            return place.kin, (place.name, place.address)
        if folder.is_relative_to(self._experiment) and folder.exists():
            return "files", (run, relative_link(folder, self._page_folder))
        return "not found below this page", (run, None)
