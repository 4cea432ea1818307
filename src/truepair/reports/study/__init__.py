"""The page of a study: six questions, each with figures, and the table of all arms."""

from truepair.reports.study.page import report_study

__all__ = ["report_study"]
