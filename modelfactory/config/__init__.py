"""Where Hydra and OmegaConf are: nothing else of the package imports them."""

from modelfactory.config.application import current_folder, run_application
from modelfactory.config.composing import compose, config_folder, register_plugins, to_plain, to_yaml
from modelfactory.config.figures import unused_figures
from modelfactory.config.refusals import with_the_rest

__all__ = [
    "compose",
    "config_folder",
    "current_folder",
    "register_plugins",
    "run_application",
    "to_plain",
    "to_yaml",
    "unused_figures",
    "with_the_rest",
]
