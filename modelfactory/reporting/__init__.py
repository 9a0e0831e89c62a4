"""What a run or a sweep has to say: a ranking with its spread over seeds, a summary, pictures and a page."""

from modelfactory.reporting.report import FILES, Report, report

__all__ = ["FILES", "Report", "report"]
