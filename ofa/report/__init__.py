"""One self-contained HTML page per run, and PNG plots."""

from ofa.report.page import write_report
from ofa.report.plots import write_plots

__all__ = ["write_plots", "write_report"]
