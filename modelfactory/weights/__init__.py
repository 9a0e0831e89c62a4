"""Pretrained weights: files read without running code, fetched with their hash checked, and every tensor accounted for."""

from modelfactory.weights.fetching import check_hash, fetch, place_of
from modelfactory.weights.files import CONFIG_KEY, TIED_KEY, WEIGHTS, Source, label_of, open_weights
from modelfactory.weights.matching import Allowance, Match, match_names, stem_for

__all__ = [
    "CONFIG_KEY",
    "TIED_KEY",
    "WEIGHTS",
    "Allowance",
    "Match",
    "Source",
    "check_hash",
    "fetch",
    "label_of",
    "match_names",
    "open_weights",
    "place_of",
    "stem_for",
]
