"""How each run was made, as the page shows it, and the folders that are not in its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lpft.report.facts import Sections, facts, shared_facts, without
from lpft.report.numbers import counted, seconds, slug
from lpft.report.outputs import relative_link
from lpft.results.folder import UnreadFolder
from lpft.results.groups import Group, Setting, method_name
from lpft.results.run import Run


@dataclass(frozen=True)
class RunView:
    """How one run was made; ``sections`` leaves out what all runs of the page have in common."""

    run: Run
    anchor: str
    href: str
    method: str
    setting: str
    group: str
    sections: Sections


@dataclass(frozen=True)
class UnreadView:
    """A folder that is not in the numbers, with its place in the page and the way to it."""

    folder: UnreadFolder
    anchor: str
    href: str


def view_runs(
    groups: Sequence[Group], page_folder: Path, taken: set[str]
) -> tuple[tuple[RunView, ...], Sections]:
    """How every run was made, and what was the same for all of several.

    ``taken`` holds the page's anchors, and gets theirs.
    """
    views = [
        _view_run(run, setting, slug(f"run {run.name}", taken), group, page_folder)
        for group in groups
        for setting in group.settings
        for run in setting.runs
    ]
    if len(views) < 2:
        return tuple(views), ()
    shared = shared_facts([view.sections for view in views])
    return tuple(replace(v, sections=without(v.sections, shared)) for v in views), shared


def view_unread(
    unread: Sequence[UnreadFolder], page_folder: Path, taken: set[str]
) -> tuple[UnreadView, ...]:
    """Folders that are not in the numbers; ``taken`` as for :func:`view_runs`."""
    return tuple(
        UnreadView(
            found, slug(f"unread {found.name}", taken), relative_link(found.folder, page_folder)
        )
        for found in unread
    )


def _view_run(run: Run, setting: Setting, anchor: str, group: Group, page_folder: Path) -> RunView:
    return RunView(
        run=run,
        anchor=anchor,
        href=relative_link(run.folder, page_folder),
        method=method_name(run.method),
        setting=setting.label,
        group=group.slug,
        sections=_sections(run),
    )


def _sections(run: Run) -> Sections:
    """All that is known of a run, under its headings."""
    configuration = {key: value for key, value in run.config.items() if key != "output_dir"}
    found: Sections = (
        (
            "Configuration",
            (*facts(configuration), ("configuration hash", _recorded(run.record.config_hash))),
        ),
        (
            "Data",
            (
                ("name", run.data_name),
                ("classes", ", ".join(run.classes)),
                *((split, counted(rows, "row")) for split, rows in run.data.rows.items()),
                ("licence", _recorded(run.data.licence)),
            ),
        ),
        ("Sources", facts(run.data.sources)),
        ("Fingerprints", tuple((name, value[:12]) for name, value in run.fingerprints.items())),
        (
            "Environment",
            (
                ("device", _recorded(run.record.device)),
                ("commit", _recorded(run.record.commit)),
                *run.record.versions.items(),
            ),
        ),
        ("Linear probe", facts(run.record.probe or {})),
        ("Time", tuple((name, seconds(value)) for name, value in run.record.timings.items())),
    )
    return tuple((heading, lines) for heading, lines in found if lines)


def _recorded(value: str | None) -> str:
    return "not recorded" if value is None else value
