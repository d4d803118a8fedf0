"""Files of ``torch.save``, read without trusting them: nothing is executed, and memory stays bounded."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from tta_bench.runtime.files import LARGEST_INDEX, file_fault, open_archive

LARGEST_FILE = 16 * 2**30
"""Bytes; several times the largest encoder's weights."""

AGAIN = "get it again, or train it again"
OTHER = "give the .pth or .ckpt of a source model"
_WEIGHTS_ALONE = "save the network's state_dict() alone"

_OTHER_FORMATS = (
    (b"\x93NUMPY", "is a NumPy array", OTHER),
    (b"\x89HDF", "is an HDF5 file", OTHER),
    (b"\x1f\x8b", "is compressed with gzip", "unpack it first"),
    (
        b"\x80",
        "is a pickle or of the format of PyTorch before 1.6, which is refused because it could execute code and has no "
        "checksums",
        "save it again with torch.save(torch.load(FILE, weights_only=True), NEW)",
    ),
)
"""First bytes, what they tell, and the remedy."""


class TorchFileError(Exception):
    """A file that is not read.

    Args:
        reason: the end of a sentence that begins with the file's name.
        remedy: what to do.
    """

    def __init__(self, reason: str, remedy: str = AGAIN) -> None:
        super().__init__(f"{reason}: {remedy}")
        self.reason = reason


def read_torch_file(path: Path, *, device: str | None = "cpu", tensors: bool = True) -> Any:
    """The content of an archive of ``torch.save``: tensors and plain values only.

    All bytes are compared with their checksums. The tensors are mapped from the file into memory, so that even huge
    ones cost nothing before they are looked at.

    Args:
        path: the file.
        device: where the tensors come; None: where they were, which is for files of this machine alone.
        tensors: False where only the plain values are wanted: the tensors' bytes are not read, so not compared either.

    Raises:
        TorchFileError: whatever is wrong with the file.
    """
    fault = file_fault(path)
    if fault is not None:
        raise TorchFileError(fault, "check the path" if fault.endswith(("exist", "folder")) else AGAIN)
    with path.open("rb") as file:
        start = file.read(16)
    if not start.startswith(b"PK\x03\x04"):
        raise _other_format(start)
    _check_archive(path, tensors)
    try:
        with warnings.catch_warnings():  # about kinds of tensors that are refused later
            warnings.simplefilter("ignore")
            return torch.load(path, map_location=device, weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"'{named[1]}'" if named else "Python objects"
        raise TorchFileError(
            f"holds {what} besides tensors; loading that could execute code, so it is refused", _WEIGHTS_ALONE
        ) from None
    except Exception as error:  # torch raises many kinds for damaged files, none documented
        raise _damaged(error) from None


def _other_format(start: bytes) -> TorchFileError:
    """What the first 16 bytes of a file that is no archive tell."""
    for magic, reason, remedy in _OTHER_FORMATS:
        if start.startswith(magic):
            return TorchFileError(reason, remedy)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < LARGEST_FILE:
        return TorchFileError(
            "is a safetensors file", "convert it with torch.save(safetensors.torch.load_file(FILE), NEW)"
        )
    return TorchFileError("is not a PyTorch file", OTHER)


def _check_archive(path: Path, tensors: bool) -> None:
    """Refuse what torch.load would read without noticing: changed bytes, and sizes beyond all bounds."""
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise TorchFileError(f"has {size / 2**30:.0f} GiB, more than the weights of any network", OTHER)
    try:
        if not zipfile.is_zipfile(path):
            raise TorchFileError("is truncated")
        with open_archive(path) as archive:
            description = _check_entries(archive.infolist(), size)
            member = archive.testzip() if tensors else None
            archive.read(description)  # compares it with its checksum
    except TorchFileError:
        raise
    except Exception as error:
        raise _damaged(error) from None
    if member is not None:
        raise TorchFileError(f"is damaged ({member})")


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> zipfile.ZipInfo:
    """The entry of all but the tensors' bytes.

    An archive that ``torch.save`` did not write is refused, and one of which a few bytes would become many.
    """
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") for name in names):
        raise TorchFileError("is a TorchScript archive", _WEIGHTS_ALONE)
    descriptions = [
        entry for entry in entries if entry.filename.count("/") == 1 and entry.filename.endswith("/data.pkl")
    ]
    if not descriptions:
        raise TorchFileError("is a zip archive, but not one of torch.save", OTHER)
    if len(descriptions) > 1 or len(set(names)) < len(names):
        raise TorchFileError("is damaged (its archive has entries of the same name)")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
        raise TorchFileError("is damaged, or was compressed, which torch.save never does")
    if sum(entry.file_size for entry in entries) > size:
        raise TorchFileError("is damaged (its archive's entries are larger than the file)")
    if descriptions[0].file_size > LARGEST_INDEX:
        raise TorchFileError(f"describes its content in {descriptions[0].file_size / 2**20:.0f} MiB, too much", OTHER)
    return descriptions[0]


def _damaged(error: Exception) -> TorchFileError:
    reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
    return TorchFileError(f"is damaged or not a PyTorch file ({reason})")
