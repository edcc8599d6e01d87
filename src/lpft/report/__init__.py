"""The report of a folder: all that it holds on one page, with tables and figures."""

from lpft.report.build import ReportResult, build_report
from lpft.report.interpolation import format_interpolation
from lpft.report.terminal import (
    format_experiment,
    format_kernel_table,
    format_method_table,
    format_report,
    method_table,
    report_record,
)
from lpft.results.exhibits import ExperimentRecord

__all__ = [
    "ExperimentRecord",
    "ReportResult",
    "build_report",
    "format_experiment",
    "format_interpolation",
    "format_kernel_table",
    "format_method_table",
    "format_report",
    "method_table",
    "report_record",
]
