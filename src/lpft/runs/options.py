"""Command-line options made from the settings' dataclasses, so that neither can drift."""

from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from typing import Any, get_origin

from lpft.runs.config import RUN_OWNERS, DataSettings, setting_fields
from lpft.runs.kernel_regression_settings import RegressionSettings
from lpft.runs.kernel_settings import KernelSettings
from lpft.runs.output_settings import OutputSettings
from lpft.training.settings import TrainingSettings

GROUPS: dict[type, str] = {
    DataSettings: "data",
    TrainingSettings: "model and training",
    OutputSettings: "what is kept",
    KernelSettings: "kernels",
    RegressionSettings: "kernel regression, each for the solvers named first",
}
"""What ``--help`` calls the options of a dataclass."""


def add_setting_options(
    parser: ArgumentParser,
    names: Iterable[str] | None = None,
    owners: tuple[type, ...] = RUN_OWNERS,
    titles: Mapping[type, str] = GROUPS,
) -> None:
    """One long option per setting (or per named one), with its help, choices and default.

    ``titles`` head the options of each owner in ``--help``.
    """
    groups: dict[type, Any] = {}
    for name, (owner, item, kind) in setting_fields(owners).items():
        if names is not None and name not in names:
            continue
        if owner not in groups:
            groups[owner] = parser.add_argument_group(titles[owner])
        text = item.metadata["help"]
        option = "--" + name.replace("_", "-")
        if kind is bool:
            groups[owner].add_argument(
                option,
                dest=name,
                action=BooleanOptionalAction,
                default=SUPPRESS,
                help=f"{text} (default: {'yes' if item.default else 'no'})",
            )
            continue
        if item.default is not None and item.default is not MISSING:
            given = item.default
            shown = ",".join(given) if isinstance(given, tuple) else given
            text += f" (default: {shown})"
        groups[owner].add_argument(
            option,
            dest=name,
            action="append" if get_origin(kind) is dict else "store",
            choices=item.metadata["choices"],
            metavar=item.metadata.get("metavar"),
            default=SUPPRESS,
            help=text,
        )


def given_settings(arguments: Namespace, owners: tuple[type, ...] = RUN_OWNERS) -> dict[str, Any]:
    """The settings that the command line named, by name."""
    return {
        name: getattr(arguments, name)
        for name in setting_fields(owners)
        if hasattr(arguments, name)
    }
