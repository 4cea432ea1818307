"""The page of a study: six questions, each with figures, and the table of all arms."""

from truepair.reports.study.detectors import read_detectors
from truepair.reports.study.page import report_study

__all__ = ["read_detectors", "report_study"]
