"""How a signal, and the gradient, travel through a model: predicted before there are data, and measured on one batch."""

from modelfactory.signalling.predict import predict
from modelfactory.signalling.probing import signal
from modelfactory.signalling.state import Input
from modelfactory.signalling.table import Numbers, Row, SignalTable

__all__ = ["Input", "Numbers", "Row", "SignalTable", "predict", "signal"]
