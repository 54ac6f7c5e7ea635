"""What a run looked like, as one page that opens offline: `report.html`, and runs side by side.

Read in this order: `run_report` (what is on the page), `comparison` (several runs), `charts` and `mistakes` (the pictures),
`page` (HTML).
"""

from minires.train.report.comparison import compare_runs, write_comparison
from minires.train.report.run_report import REPORT, report_available, write_report

__all__ = ["REPORT", "compare_runs", "report_available", "write_comparison", "write_report"]
