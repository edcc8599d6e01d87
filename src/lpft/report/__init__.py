"""The report of a folder of runs: one self-contained page, tables and figures."""

from lpft.report.build import ReportResult, build_report
from lpft.report.collect import Collection, RunSummary, UnreadRun, collect_runs
from lpft.report.terminal import format_method_table, method_table

__all__ = [
    "Collection",
    "ReportResult",
    "RunSummary",
    "UnreadRun",
    "build_report",
    "collect_runs",
    "format_method_table",
    "method_table",
]
