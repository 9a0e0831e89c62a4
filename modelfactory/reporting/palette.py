"""The colours of schemes, the same in the picture and on the page: told apart by the colour-blind, on white and on black."""

from __future__ import annotations

# Okabe and Ito (2008), Color universal design, each for a light and for a dark ground
LIGHT = ("#0072b2", "#d55e00", "#00805e", "#b8558f", "#b07a00", "#3a8fc4", "#7b5bb5", "#8a5a44")
DARK = ("#5aa9e6", "#ff8a4c", "#35c49a", "#e58fc0", "#e6b53a", "#8fd0f5", "#b79cf0", "#c99a82")
NUM_COLOURS = len(LIGHT)
