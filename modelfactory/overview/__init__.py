"""What a plan shows: layers, totals, rules, and what will probably not train."""

from modelfactory.overview.difference import Difference, compare
from modelfactory.overview.explain import Explanation, Explanations, explain
from modelfactory.overview.record import record
from modelfactory.overview.survey import Overview, survey

__all__ = ["Difference", "Explanation", "Explanations", "Overview", "compare", "explain", "record", "survey"]
