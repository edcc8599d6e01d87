"""The table of tasks. Adding a task is adding a row."""

from difflib import get_close_matches

from lpft.data.tasks.boss import BOSS_TASKS
from lpft.data.tasks.demo import DEMO
from lpft.data.tasks.glue import GLUE_TASKS
from lpft.data.tasks.pubmed import PUBMED_TASKS
from lpft.data.tasks.superglue import SUPERGLUE_TASKS
from lpft.data.tasks.task import Grouping, Task, Template, pair, single
from lpft.errors import InputError

__all__ = [
    "REFUSED",
    "TASKS",
    "Grouping",
    "Task",
    "Template",
    "find_task",
    "pair",
    "single",
]

TASKS: dict[str, Task] = {
    task.name: task for task in (DEMO, *GLUE_TASKS, *SUPERGLUE_TASKS, *BOSS_TASKS, *PUBMED_TASKS)
}
"""Every task by name."""

REFUSED: dict[str, str] = {
    "stsb": "it is regression (similarity of two sentences from 0 to 5), which a classifier does "
    "not do",
}
"""Tasks of these benchmarks that are not supported, with the reason."""


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        InputError: there is none; the message lists those that there are, or says why not.
    """
    if name in REFUSED:
        raise InputError(f"{name} is not supported: {REFUSED[name]}; see lpft tasks for others")
    if name not in TASKS:
        near = get_close_matches(name.lower(), (*TASKS, *REFUSED), n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise InputError(f"unknown task '{name}'{hint}: expected one of {', '.join(TASKS)}")
    return TASKS[name]
