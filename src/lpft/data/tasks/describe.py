"""A row of the table of tasks as plain values, for ``lpft tasks`` and programs."""

from typing import Any

from lpft.data.tasks.task import Task


def describe_task(task: Task) -> dict[str, Any]:
    """What a task is, ready for JSON.

    ``files`` has the layouts of its official files: names of the benchmark's folder, of the task's
    folder in it, and the paths in that by split.
    """
    hub = task.hub
    return {
        "name": task.name,
        "title": task.title,
        "benchmark": task.benchmark,
        "classes": list(task.classes),
        "metric": task.metric,
        "templates": [template.description for template in task.templates],
        "grouped_by": None if task.grouping is None else task.grouping.noun,
        "ood": list(task.ood),
        "files": [
            {
                "layout": release.layout,
                "benchmark_folders": list(release.benchmarks),
                "folders": list(release.folders),
                "paths": dict(release.files),
                "url": release.url,
                "notes": list(release.notes),
            }
            for release in task.releases
        ],
        "hub": None if hub is None else hub.id,
        "hub_config": None if hub is None else hub.config,
        "hub_revision": None if hub is None else hub.revision,
        "hub_notes": [] if hub is None else list(hub.notes),
        "url": task.url,
        "licence": task.licence,
        "notes": list(task.notes),
    }


def format_task(description: dict[str, Any]) -> str:
    """The same for people: a line for each fact, one below the other where there are several."""
    facts: dict[str, list[str]] = {
        "name": [description["name"]],
        "title": [description["title"]],
        "benchmark": [description["benchmark"]],
        "classes": [", ".join(description["classes"])],
        "metric": [description["metric"] + _grouped(description["grouped_by"])],
        "templates": [f"{n}: {text}" for n, text in enumerate(description["templates"])],
        "ood": [", ".join(description["ood"])] if description["ood"] else [],
        "files": [_paths(layout) for layout in description["files"]],
        "from": list(dict.fromkeys(layout["url"] for layout in description["files"])),
        "hub": [_hub(description)] if description["hub"] is not None else [],
        "url": [description["url"]],
        "licence": [description["licence"]],
        "paper": _paper_rows(description["paper_rows"]),
        "notes": [
            *description["notes"],
            *(note for layout in description["files"] for note in layout["notes"]),
            *(f"on the Hub: {note}" for note in description["hub_notes"]),
        ],
    }
    lines = []
    for name, values in facts.items():
        first, *others = values if values else ["-"]
        lines += [f"{name + ':':<11}{first}", *(" " * 11 + other for other in others)]
    return "\n".join(lines)


def _grouped(noun: str | None) -> str:
    return "" if noun is None else f" (rows are grouped by {noun})"


def _paths(layout: dict[str, Any]) -> str:
    place = f"{layout['benchmark_folders'][0]}/{layout['folders'][0]}"
    return f"{layout['layout']}: {place}/ with {', '.join(layout['paths'].values())}"


def _hub(description: dict[str, Any]) -> str:
    return f"{description['hub']} ({description['hub_config']}) at {description['hub_revision']}"


def _paper_rows(rows: dict[str, int | None] | None) -> list[str]:
    if rows is None:
        return []
    counts = (f"{split} {count}" for split, count in rows.items() if count is not None)
    return [f"published counts: {', '.join(counts)}"]
