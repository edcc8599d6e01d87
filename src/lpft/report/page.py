"""Render the one self-contained HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

import lpft
from lpft.report.exhibits.views import ExperimentView
from lpft.report.facts import Sections
from lpft.report.kernels.views import KernelView
from lpft.report.notes import DEFINITIONS, KERNEL_DEFINITIONS, faults, kernel_faults
from lpft.report.numbers import counted, fixed, joined
from lpft.report.run_views import RunView, UnreadView
from lpft.report.views import GroupView
from lpft.results.folder import UnreadFolder
from lpft.results.groups import model_name

MOST_RUNS_OPEN = 12
GROUP_PARTS = (
    ("results", "Results"),
    ("change", "Feature change"),
    ("calibration", "Calibration"),
    ("features", "Features"),
    ("training", "Training"),
    ("confusion", "Confusion"),
)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("lpft.report"),
        autoescape=True,  # class names, file names and texts come from data
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["fixed"] = fixed
    environment.filters["counted"] = counted
    return environment.get_template("report.html.j2")


@dataclass(frozen=True)
class PageParts:
    """Everything on the page, in its order.

    ``shared`` is what all runs have in common, ``copies`` how many folders hold what another does.
    """

    experiments: Sequence[ExperimentView]
    groups: Sequence[GroupView]
    runs: Sequence[RunView]
    shared: Sections
    kernels: Sequence[KernelView]
    unread: Sequence[UnreadView]
    copies: int

    @property
    def folded(self) -> bool:
        """Whether what was measured is folded away: behind experiments, or many runs of many kinds.

        Results of one group of runs are what its page is for.
        """
        return bool(self.experiments) or (self.folded_runs and len(self.groups) > 1)

    @property
    def folded_runs(self) -> bool:
        """Whether how each run was made is folded away."""
        return bool(self.experiments) or len(self.runs) > MOST_RUNS_OPEN


@dataclass(frozen=True)
class FilesBeside:
    """The ways from the page to the folders of tables and figures, and whether they have files."""

    tables_href: str
    figures_href: str
    has_tables: bool
    has_figures: bool


def render_page(parts: PageParts, beside: FilesBeside) -> str:
    """The page as HTML."""
    return _template().render(
        title=_title(parts),
        overview=_overview(parts),
        subject=_subject(parts),
        experiments=parts.experiments,
        groups=parts.groups,
        runs=parts.runs,
        shared=parts.shared,
        copies=parts.copies,
        kernels=parts.kernels,
        unread=parts.unread,
        folded=parts.folded,
        folded_runs=parts.folded_runs,
        level=2 if len(parts.experiments) == 1 else 3,
        anchors={view.run.name: view.anchor for view in parts.runs},
        unread_counts=_unread_counts([view.folder for view in parts.unread]),
        navigation=_navigation(parts),
        group_parts=GROUP_PARTS,
        definitions=_definitions(parts),
        faults=_faults(parts),
        **vars(beside),
        version=lpft.__version__,
    )


def _title(parts: PageParts) -> str:
    return parts.experiments[0].title if len(parts.experiments) == 1 else "LP-FT report"


def _definitions(parts: PageParts) -> tuple[tuple[str, str], ...]:
    ours = DEFINITIONS if parts.groups or parts.experiments else ()
    return (*ours, *(KERNEL_DEFINITIONS if parts.kernels else ()))


def _faults(parts: PageParts) -> list[str]:
    known = faults(view.group for view in parts.groups)
    if parts.kernels:
        known += kernel_faults(view.kernels.model for view in parts.kernels)
    return known


def _overview(parts: PageParts) -> str:
    groups, kernels, experiments = parts.groups, parts.kernels, parts.experiments
    behind = []
    if parts.runs:
        where = _where([(view.group.data, view.group.model) for view in groups])
        behind.append(f"{counted(len(parts.runs), 'run')} on {where}")
    if kernels:
        names = [(view.kernels.data_name, model_name(view.kernels.model)) for view in kernels]
        behind.append(f"{'k' if behind or experiments else 'K'}ernels of {_where(names)}")
    if not experiments:
        return joined(behind)
    alone = len(experiments) == 1
    first = experiments[0].record.name if alone else counted(len(experiments), "experiment")
    return joined([f"Experiment {first}" if alone else first, *behind])


def _where(names: Sequence[tuple[str, str]]) -> str:
    data, models = (list(dict.fromkeys(found)) for found in zip(*names, strict=True))
    named = joined(data) if len(data) <= 3 else counted(len(data), "data set")
    return f"{named} with {joined(models)}"


def _subject(parts: PageParts) -> str:
    paper = (
        "Tables and figures of the paper done again, published numbers beside ours, each of ours "
        "with a link to the runs that it is from."
    )
    runs = (
        "Linear probing, fine-tuning and both in a row: accuracy in and out of distribution, "
        "calibration, and what happened to the features."
    )
    ntk = (
        "The empirical neural tangent kernel at the start of fine-tuning, split into what the "
        "head's own weights contribute and what goes through the features."
    )
    if parts.experiments:
        return paper
    return " ".join([runs] * bool(parts.groups) + [ntk] * bool(parts.kernels))


def _navigation(parts: PageParts) -> tuple[tuple[str, str], ...]:
    """Anchors and names: the parts of what is alone, the sections of what is not."""
    groups, kernels, experiments = parts.groups, parts.kernels, parts.experiments
    links = [("summary", "Summary")]
    if experiments:
        alone = len(experiments) == 1
        links += experiments[0].sections if alone else [(v.slug, v.slug) for v in experiments]
        links += [("behind", "Runs and kernels")] if groups or kernels else []
        return (*links, ("notes", "Notes"))
    if len(groups) == 1:
        slug = groups[0].group.slug
        links += [(f"{slug}-{part}", name) for part, name in GROUP_PARTS]
    else:
        links += [(v.group.slug, f"{v.group.data} · {v.group.model}") for v in groups]
    if len(kernels) == 1 and not groups:
        links += kernels[0].sections
    elif len(kernels) == 1:
        links.append((kernels[0].slug, "Kernels"))
    else:
        links += [(view.slug, f"Kernels: {view.kernels.data_name}") for view in kernels]
    runs = [("runs", "Runs")] if groups else []
    return (*links, *runs, ("notes", "Notes"))


def _unread_counts(unread: Sequence[UnreadFolder]) -> str:
    """``2 run folders and 1 kernel folder``."""
    nouns = {
        "experiment": "experiment folder",
        "run": "run folder",
        "kernels": "kernel folder",
    }
    counts = {holds: sum(folder.holds == holds for folder in unread) for holds in nouns}
    return joined([counted(counts[holds], noun) for holds, noun in nouns.items() if counts[holds]])
