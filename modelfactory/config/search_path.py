"""Where the package's own configs are."""

from __future__ import annotations

from pathlib import Path


def config_folder() -> Path:
    """Give the folder of the package's own configs: inside the package when installed, beside it in a checkout.

    Example:
        >>> (config_folder() / "config.yaml").is_file()
        True
    """
    here = Path(__file__).resolve().parent.parent
    return ((here / "conf") if (here / "conf").is_dir() else here.parent / "conf").resolve()
