"""The kernel table of one record as plain text for a terminal."""

from collections.abc import Iterator
from textwrap import fill

from lpft.report.kernels import dynamics_tables, tables
from lpft.report.kernels.reading import read_certificate, what_was_computed
from lpft.report.writers import TERMINAL_WIDTH, to_text
from lpft.results.kernels import FIRST_SOLVERS, KernelRecord


def format_kernel_table(kernels: KernelRecord) -> str:
    """The record of ``kernels.json`` in the layout of the paper's tables 2 and 9.

    P stands once, then F and P + F of every method: rank, Frobenius norm, train and test accuracy
    of kernel regression by the paper's protocol and per text, FT ratio. Above it one line says
    what was computed, below it the units; then all accuracies, where other solvers were asked for,
    and what real training does beside the kernel's prediction, where it was.
    """
    table = tables.statistics(kernels)
    checks = [f"Certificate: {sentence}" for sentence in read_certificate(kernels)]
    what, *notes = (
        fill(text, TERMINAL_WIDTH, break_on_hyphens=False)
        for text in (what_was_computed(kernels), table.note, *checks)
    )
    return "\n\n".join([what, to_text(table), "\n".join(notes), *_further(kernels)])


def _further(kernels: KernelRecord) -> Iterator[str]:
    """The tables beside that of the paper, each below its caption."""
    found = [dynamics_tables.first_order(kernels), dynamics_tables.linearized(kernels)]
    if set(kernels.solvers) - set(FIRST_SOLVERS):
        found.insert(0, tables.regression(kernels))
    for table in found:
        if table is not None:
            note = fill(table.note, TERMINAL_WIDTH, break_on_hyphens=False)
            yield f"{table.caption}\n\n{to_text(table, TERMINAL_WIDTH)}\n\n{note}"
