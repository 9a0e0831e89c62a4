"""Activation moments and gains, quadrature, keyed random numbers, threads, QR."""
