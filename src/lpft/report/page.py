"""Render the one self-contained HTML page."""

from collections.abc import Mapping, Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

import lpft
from lpft.report.collect import UnreadRun
from lpft.report.notes import DEFINITIONS, faults
from lpft.report.numbers import counted, fixed, joined
from lpft.report.views import GroupView, RunView


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
    unread: Sequence[tuple[UnreadRun, str]],
    *,
    title: str,
    tables_href: str,
    figures_href: str,
) -> str:
    """The page as HTML; ``unread`` pairs each run that is not shown with a link to its folder."""
    anchors: Mapping[str, str] = {view.run.name: view.anchor for view in runs}
    return _template().render(
        title=title,
        groups=groups,
        runs=runs,
        anchors=anchors,
        unread=unread,
        definitions=DEFINITIONS,
        faults=faults(view.group for view in groups),
        overview=_overview(groups, runs),
        tables_href=tables_href,
        figures_href=figures_href,
        version=lpft.__version__,
    )


def _overview(groups: Sequence[GroupView], runs: Sequence[RunView]) -> str:
    data = list(dict.fromkeys(view.group.data for view in groups))
    models = list(dict.fromkeys(view.group.model for view in groups))
    named = joined(data) if len(data) <= 3 else counted(len(data), "data set")
    return f"{counted(len(runs), 'run')} on {named} with {joined(models)}"
