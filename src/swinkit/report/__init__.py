"""The report of a run: one HTML file that opens anywhere, offline."""

from swinkit.report.page import MistakePicture, Report, write_report

__all__ = ["MistakePicture", "Report", "write_report"]
