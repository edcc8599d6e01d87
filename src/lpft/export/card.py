"""The README.md of an export: the run's own card, with another way to use it."""

from pathlib import Path

from lpft.export.comparison import Agreement
from lpft.export.written import Written
from lpft.markdown import markdown_template

_FRONT_MATTER, _USE, _LIMITS = "---\n", "## Use\n", "## Limits\n"


def export_card(
    run_card: Path, format: str, written: Written, check: Agreement, *, paired: bool
) -> str:
    """Markdown with what the run's card says of data, results and limits, where it has one."""
    about, limits = _parts(run_card)
    return markdown_template("lpft.export", "card.md.j2").render(
        format=format,
        about=about,
        limits=limits,
        model=written.model,
        notes=written.notes,
        check=check,
        paired=paired,
    )


def _parts(run_card: Path) -> tuple[str, str]:
    """The run's card before and after the way to use the run."""
    if not run_card.is_file():
        return "# A text classifier", ""
    text = run_card.read_text(encoding="utf-8", errors="replace")
    if text.startswith(_FRONT_MATTER):
        text = text.removeprefix(_FRONT_MATTER).partition(_FRONT_MATTER)[2]
    about, _, use = text.partition(_USE)
    _, heading, limits = use.partition(_LIMITS)
    return about.strip(), f"{heading}{limits}".strip()
