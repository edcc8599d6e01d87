"""Shell completion: the parser as a script for bash, zsh or fish, written by shtab."""

from argparse import Action, ArgumentParser, _SubParsersAction
from collections.abc import Sequence
from pathlib import Path

from lpft.settings.configs import taken_by

SHELLS = ("bash", "zsh", "fish")

_FOLDERS = ("folder", "data_dir", "output_dir")


def completion_script(parser: ArgumentParser, shell: str) -> str:
    """What a shell runs to complete ``lpft``: commands, options, their values, files and folders.

    The script is static: completing starts no Python.
    """
    import shtab

    (commands,) = (a for a in parser._actions if isinstance(a, _SubParsersAction))
    for name, subparser in commands.choices.items():
        paths = {setting.name for setting in taken_by(name).values() if setting.type is Path}
        for action in subparser._actions:
            if action.dest in _FOLDERS:
                _complete(action, shtab.DIRECTORY)
            elif action.type is Path or action.dest in (*paths, "file"):
                _complete(action, shtab.FILE)
            elif action.choices is None:
                action.choices = _names(name, action.dest)
                if action.dest == "model":  # or any folder
                    _complete(action, shtab.DIRECTORY)
    return str(shtab.complete(parser, shell))


def _complete(action: Action, how: dict[str, str]) -> None:
    action.complete = how  # type: ignore[attr-defined]  # where shtab looks


def _names(command: str, argument: str) -> Sequence[str] | None:
    """The values of an argument that are known by name; None where there are none."""
    from lpft.data import TASKS
    from lpft.experiments.catalogue import list_experiments
    from lpft.settings.methods import METHODS

    return {
        ("tasks", "name"): tuple(TASKS),
        ("reproduce", "name"): (*(row["name"] for row in list_experiments()), "all", "list"),
        (command, "executor"): ("local", "ray"),
        (command, "method"): ("auto", *METHODS),
        (command, "model"): ("minilm",),
        (command, "task"): tuple(TASKS),
    }.get((command, argument))
