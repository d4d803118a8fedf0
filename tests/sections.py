"""Sections of a configuration as the shipped files have them, for tests that need no command line."""

from tta_bench.runtime.paths import shipped
from tta_bench.schema import DataConfig, RunConfig


def data_section(**changes):
    """Of ``data=folder`` at 64 pixels with one class."""
    defaults = {"name": "folder", "image_size": 64, "classes": {"foreground": (1,)}}
    return {**shipped("shared/data"), **defaults, **changes}


def data_config(**changes):
    """:func:`data_section`, validated."""
    return DataConfig(**data_section(**changes))


def run_config(**sections):
    """A run of nothing in particular; ``sections`` stand in for those of the files."""
    top = {key: value for key, value in shipped("config").items() if key != "hydra"}
    defaults = {
        "method": {"name": "none"},
        "data": data_section(),
        "model": shipped("model/unet"),
        "training": {**shipped("training/quick"), "branch_weights": shipped("shared/branch_weights")},
        "protocol": {**shipped("shared/network_size"), **shipped("protocol/online")},
        "logger": {},
    }
    return RunConfig.model_validate({**top, **defaults, **sections})
