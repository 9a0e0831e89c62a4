"""Trains the model that a config describes: python train.py init=kaiming_normal"""

import sys

from modelfactory.cli.main import train

if __name__ == "__main__":
    sys.exit(train())
