"""Source models on disk: the workbench's own checkpoint, the GraTa authors' state dict, and those of others.

All are read with ``weights_only=True``: a file that would execute code is refused, never executed.
"""

from tta_bench.models.checkpoint.content import Checkpoint, Description, SourceModel, mean_dice
from tta_bench.models.checkpoint.foreign import Fitted, fit, read_foreign
from tta_bench.models.checkpoint.load import file_sha256, file_state, load_checkpoint, read_checkpoint, read_description
from tta_bench.models.checkpoint.official import OFFICIAL, OFFICIAL_IMAGE_SIZE, from_official, to_official
from tta_bench.models.checkpoint.own import save_checkpoint

__all__ = [
    "OFFICIAL",
    "OFFICIAL_IMAGE_SIZE",
    "Checkpoint",
    "Description",
    "Fitted",
    "SourceModel",
    "file_sha256",
    "file_state",
    "fit",
    "from_official",
    "load_checkpoint",
    "mean_dice",
    "read_checkpoint",
    "read_description",
    "read_foreign",
    "save_checkpoint",
    "to_official",
]
