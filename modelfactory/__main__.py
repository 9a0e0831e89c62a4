"""The same as the console script: `python -m modelfactory plan model=cnn`."""

from __future__ import annotations

import sys

from modelfactory.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
