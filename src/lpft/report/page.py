"""Render the one self-contained HTML page."""

from collections.abc import Mapping, Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

import lpft
from lpft.report.kernels.views import KernelView
from lpft.report.notes import DEFINITIONS, KERNEL_DEFINITIONS, faults, kernel_faults
from lpft.report.numbers import counted, fixed, joined
from lpft.report.records import UnreadFolder
from lpft.report.settings import model_name
from lpft.report.views import GroupView, RunView

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


def render_page(
    groups: Sequence[GroupView],
    runs: Sequence[RunView],
    kernels: Sequence[KernelView],
    unread: Sequence[tuple[UnreadFolder, str]],
    *,
    title: str,
    tables_href: str,
    figures_href: str,
) -> str:
    """The page as HTML; ``unread`` pairs each folder that is not shown with a link to it."""
    anchors: Mapping[str, str] = {view.run.name: view.anchor for view in runs}
    known = faults(view.group for view in groups)
    if kernels:
        known += kernel_faults(view.kernels.model for view in kernels)
    return _template().render(
        title=title,
        groups=groups,
        runs=runs,
        kernels=kernels,
        anchors=anchors,
        unread=unread,
        unread_counts=_unread_counts([folder for folder, _ in unread]),
        navigation=_navigation(groups, kernels),
        group_parts=GROUP_PARTS,
        definitions=(
            *(DEFINITIONS if groups else ()),
            *(KERNEL_DEFINITIONS if kernels else ()),
        ),
        faults=known,
        overview=_overview(groups, runs, kernels),
        subject=_subject(groups, kernels),
        tables_href=tables_href,
        figures_href=figures_href,
        version=lpft.__version__,
    )


def _overview(
    groups: Sequence[GroupView], runs: Sequence[RunView], kernels: Sequence[KernelView]
) -> str:
    parts = []
    if runs:
        where = _where([(view.group.data, view.group.model) for view in groups])
        parts.append(f"{counted(len(runs), 'run')} on {where}")
    if kernels:
        names = [(view.kernels.data_name, model_name(view.kernels.model)) for view in kernels]
        parts.append(f"{'k' if runs else 'K'}ernels of {_where(names)}")
    return joined(parts)


def _where(names: Sequence[tuple[str, str]]) -> str:
    data, models = (list(dict.fromkeys(found)) for found in zip(*names, strict=True))
    named = joined(data) if len(data) <= 3 else counted(len(data), "data set")
    return f"{named} with {joined(models)}"


def _subject(groups: Sequence[GroupView], kernels: Sequence[KernelView]) -> str:
    runs = (
        "Linear probing, fine-tuning and both in a row: accuracy in and out of distribution, "
        "calibration, and what happened to the features."
    )
    ntk = (
        "The empirical neural tangent kernel at the start of fine-tuning, split into what the "
        "head's own weights contribute and what goes through the features."
    )
    return " ".join([runs] * bool(groups) + [ntk] * bool(kernels))


def _navigation(
    groups: Sequence[GroupView], kernels: Sequence[KernelView]
) -> tuple[tuple[str, str], ...]:
    """Anchors and names: the parts of what is alone, the sections of what is not."""
    links = [("summary", "Summary")]
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
    nouns = {"run": "run folder", "kernels": "kernel folder"}
    counts = {holds: sum(folder.holds == holds for folder in unread) for holds in nouns}
    return joined([counted(counts[holds], noun) for holds, noun in nouns.items() if counts[holds]])
