"""How a signal, and the gradient, travel through a model: predicted before there are data, and measured on one batch."""
