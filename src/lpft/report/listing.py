"""A report's numbers as JSON, for programs."""

from typing import Any

import pandas as pd

from lpft.report.build import ReportResult
from lpft.report.terminal import method_table


def report_record(report: ReportResult) -> dict[str, Any]:
    """The page, the method table (a row per setting), the experiments, and where kernels are.

    Values are those of :func:`~lpft.report.terminal.method_table`; what a run lacks is None.
    """
    table = method_table(report.runs).astype(object)
    return {
        "page": str(report.page),
        "methods": table.where(pd.notna(table), None).to_dict(orient="records"),
        "experiments": {record.name: record.as_json() for record in report.experiments},
        "kernels": [str(found.folder) for found in report.kernels],
        "unread": [
            {"folder": str(found.folder), "state": found.state, "reason": found.reason}
            for found in report.unread
        ],
    }
