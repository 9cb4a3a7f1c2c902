"""One self-contained HTML page per run or data set, and PNG plots."""

from ofa.report.data_page import write_data_page
from ofa.report.page import write_report
from ofa.report.plots import write_plots

__all__ = ["write_data_page", "write_plots", "write_report"]
