"""One self-contained HTML page per run, and PNG plots."""

from ofa.report.page import write_report
from ofa.report.plots import write_front_png

__all__ = ["write_front_png", "write_report"]
