"""The files of a report: where they are, that they replace nothing, that they are whole."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from matplotlib.figure import Figure

from lpft.errors import InputError
from lpft.files import replace_when_written
from lpft.report.drawing import saved
from lpft.report.grid import Table
from lpft.report.writers import to_csv, to_latex, to_markdown

TABLE_WRITERS = {"csv": to_csv, "md": to_markdown, "tex": to_latex}
FIGURE_KINDS = ("png", "pdf")


def tables_folder(page: Path) -> Path:
    """Where the tables of a page are, beside it."""
    return page.with_name(f"{page.stem}-tables")


def figures_folder(page: Path) -> Path:
    """Where the figures of a page are, beside it."""
    return page.with_name(f"{page.stem}-figures")


def relative_link(target: Path, page_folder: Path) -> str:
    """A URL from the page to a file or folder; any byte that a file name may have is quoted."""
    relative = os.path.relpath(target.resolve(), page_folder.resolve())
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def check_page(page: Path) -> None:
    """Check that a page can have this name.

    Raises:
        InputError: it does not end in .html, or it is a folder.
    """
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(
            f"{page}: the report is an HTML page; expected a file name that ends in .html"
        )
    if page.is_dir():
        raise InputError(f"{page} is a folder; expected the name of a file for the page")


def refuse_existing(paths: Sequence[Path]) -> None:
    """Check that none of the files is there.

    Raises:
        InputError: one is.
    """
    there = [path for path in paths if os.path.lexists(path)]
    if there:
        more = f" (with {len(there) - 1} more of its files)" if len(there) > 1 else ""
        raise InputError(
            f"{there[0]} exists already{more} and nothing was written; choose another output, or "
            "replace it with --overwrite (overwrite=True in Python)"
        )


def table_files(
    tables: Iterable[tuple[str, Sequence[Table]]], folder: Path
) -> Iterator[tuple[Path, str]]:
    """Every table, under the name that goes before its own, as text of each kind."""
    for prefix, found in tables:
        for table in found:
            for ending, writer in TABLE_WRITERS.items():
                yield folder / f"{prefix}-{table.slug}.{ending}", writer(table)


def figure_files(
    figures: Iterable[tuple[str, Figure]], folder: Path
) -> Iterator[tuple[Path, tuple[Figure, str]]]:
    """Every figure with the kinds of files it is saved as."""
    for name, figure in figures:
        for kind in FIGURE_KINDS:
            yield folder / f"{name}.{kind}", (figure, kind)


def write_files(
    texts: Mapping[Path, str], images: Mapping[Path, tuple[Figure, str]], page: Path, html: str
) -> None:
    """Write everything, each file whole or not at all, the page last.

    Raises:
        InputError: a file cannot be written.
    """
    for path, text in texts.items():
        _write(path, text.encode("utf-8"))
    for path, (figure, kind) in images.items():
        _write(path, saved(figure, kind))
    _write(page, html.encode("utf-8"))


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_when_written(path) as temporary:
            temporary.write_bytes(content)
    except OSError as problem:
        raise InputError(
            f"{path} cannot be written ({problem.strerror}): name another place with --output"
        ) from problem
