"""Runs the console script: python -m modelfactory train init=kaiming_normal"""

import sys

from modelfactory.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
