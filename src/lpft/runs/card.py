"""The model card of a run: its README.md, made from its records."""

from pathlib import Path
from typing import Any

from lpft.data.examples import TextData
from lpft.markdown import markdown_template
from lpft.settings import METHODS
from lpft.settings.configs import RunConfig

_LIBRARY_NAME = "lpft"


def model_card(
    config: RunConfig, data: TextData, metrics: dict[str, Any], reason: str | None
) -> str:
    """Markdown with the data, the method, ID beside OOD, calibration, use and limits.

    ``reason`` says why the temperature stayed 1, if it did.
    """
    template = markdown_template("lpft.runs", "card.md.j2", cell=_markdown_cell)
    return template.render(
        config={
            name: _without_folders(value)
            for name, value in (config.data.flat() | config.training.flat()).items()
        },
        model_kept=config.output.save_model,
        data=data,
        sources={split: _file_only(source) for split, source in data.sources.items()},
        metrics=metrics,
        method=METHODS[config.training.method],
        paired=isinstance(data.train.texts[0], tuple),
        reason=reason,
        library=_LIBRARY_NAME,
    )


def _without_folders(value: Any) -> Any:
    """Paths of this machine by their last part: a card is made to be published."""
    if isinstance(value, dict):
        return (
            ", ".join(f"{name}: {_without_folders(path)}" for name, path in value.items()) or None
        )
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def _file_only(source: str) -> str:
    """``/folder/file: how it was split`` as ``file: how it was split``."""
    place, colon, rest = source.partition(": ")
    return Path(place).name + colon + rest if Path(place).is_absolute() else source


def _markdown_cell(value: Any) -> str:
    """Text that neither ends a table cell nor becomes Markdown or HTML."""
    escaped = " ".join(str(value).split())
    for character in "\\`*_[]|#":
        escaped = escaped.replace(character, "\\" + character)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
