"""Turn a network that was trained elsewhere into a checkpoint of tta_bench."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tta_bench.errors import UserError

if TYPE_CHECKING:
    from tta_bench.models.checkpoint import Checkpoint
    from tta_bench.models.segmentation import SegmentationModel
    from tta_bench.schema import DataConfig, ModelConfig

OFFICIAL_MASK_VALUES = {"disc": (1, 2), "cup": (2,)}
"""Values of the authors' masks after decoding, as in ``conf/data/fundus.yaml``."""

EXAMPLE = "preprocessing=imagenet, or preprocessing=unit model.preprocessing.mean=[…] model.preprocessing.std=[…]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to import, as what, and where to."""
    parser.add_argument("file", type=Path, help="a state dict (.pth, .pt, .ckpt of Lightning, .safetensors)")
    parser.add_argument("out", type=Path, help="the checkpoint to write")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="what the file does not say: model=unet model.encoder=resnet34 data.classes={vessel:[1]} "
        "data.image_size=512 preprocessing=imagenet; none for the GraTa authors' last-Res_Unet.pth",
    )
    parser.add_argument("--domain", help="the source domain it was trained on, for instance A; runs compare it")


def run(parsed: argparse.Namespace) -> None:
    """Write the checkpoint."""
    if "=" in parsed.out.name:
        raise UserError(f"'{parsed.out}' stands where the file to write is named: FILE OUT KEY=VALUE …")
    if not parsed.overrides:
        import_official(parsed.file, parsed.out, parsed.domain)
        print(f"wrote {parsed.out}")
        return
    for line in import_network(parsed.file, parsed.out, parsed.overrides, parsed.domain):
        print(line)


def import_official(official: Path, out: Path, domain: str | None) -> Checkpoint:
    """Write the authors' state dict as a checkpoint of this project; returns what was written.

    Args:
        official: the authors' ``last-Res_Unet.pth``.
        out: the file to write; an existing one is never overwritten.
        domain: name of the domain it was trained on, for instance ``A``; the file does not say.

    Raises:
        UserError: ``out`` exists, or ``official`` is not the authors' network.
    """
    from tta_bench.models.checkpoint import OFFICIAL, OFFICIAL_IMAGE_SIZE, read_checkpoint, save_checkpoint

    _refuse_existing(out)
    checkpoint = read_checkpoint(official)
    if checkpoint.format != OFFICIAL:
        raise UserError(f"{official} is a checkpoint of tta_bench already: use checkpoint={official}")
    save_checkpoint(
        out,
        checkpoint.state,
        architecture=checkpoint.architecture,
        preprocessing=checkpoint.preprocessing,
        classes=OFFICIAL_MASK_VALUES,
        image_size=OFFICIAL_IMAGE_SIZE,
        domain=domain,
        origin={"file": official.name, "sha256": checkpoint.sha256},
    )
    return read_checkpoint(out)


def import_network(file: Path, out: Path, overrides: Sequence[str], domain: str | None) -> list[str]:
    """Write the state dict of a known network as a checkpoint of this project.

    Args:
        file: the state dict, see :func:`~tta_bench.models.checkpoint.foreign.read_foreign`.
        out: the file to write; an existing one is never overwritten.
        overrides: the model section, classes, image size and preprocessing.
        domain: name of the domain it was trained on, or None.

    Returns:
        What was done, line by line.

    Raises:
        UserError: ``out`` exists, something is not said, or the weights are not those of a network that can be adapted.
    """
    from tta_bench.launch.check import compose_source
    from tta_bench.launch.network_check import usable_model
    from tta_bench.models.adaptable import AdaptableNetwork
    from tta_bench.models.checkpoint import file_sha256, fit, read_foreign, save_checkpoint

    _refuse_existing(out)
    _refuse_unsaid(overrides)
    state, beside = read_foreign(file)
    model_config, data = compose_source(_with_preprocessing(overrides))
    model_config = model_config.model_copy(update={"encoder_weights": None})
    model = usable_model(model_config, len(data.classes), data.image_size, data.activation)
    expected = model.state_dict()
    fitted = fit(file, state, expected, {key: model.name_elsewhere(key) for key in expected})
    model.load_state_dict(fitted.state)
    _probe(file, model, data.image_size)
    described = AdaptableNetwork(model, image_size=data.image_size).describe()
    save_checkpoint(
        out,
        fitted.state,
        architecture=model_config.model_dump(mode="json", exclude={"preprocessing"}),
        preprocessing=model.preprocessing,
        classes=data.classes,
        activation=data.activation,
        image_size=data.image_size,
        fit=data.fit,
        domain=domain,
        origin={"file": file.name, "sha256": file_sha256(file)},
    )
    others = ", ".join((*fitted.left, *beside))
    left = f"; left in the file: {others}" if others else ""
    return [
        f"wrote {out}: {len(fitted.state)} weights{left}",
        f"{described}; preprocessing {model.preprocessing}",
        f"use it with: {' '.join(_words(out, model_config, data, domain))}",
    ]


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out} exists: give another name, or remove it")


def _refuse_unsaid(overrides: Sequence[str]) -> None:
    """What a state dict does not say and a default would guess."""
    given = {word.partition("=")[0].lstrip("+") for word in overrides}
    needed = {
        "model": "model=unet model.encoder=NAME, model=smp model.architecture=NAME model.encoder=NAME, or a plug-in's",
        "data.classes": "data.classes={NAME: [VALUE]}, in the order of the network's outputs (with data.exclusive=true "
        "behind that of the background)",
        "data.image_size": "data.image_size=PIXELS",
    }
    if "data" in given:  # a data set that is named has both
        needed = {"model": needed["model"]}
    faults = [f"'{key}' is missing, and the file does not say it: add {text}" for key, text in needed.items()]
    missing = [fault for key, fault in zip(needed, faults, strict=True) if key not in given]
    if missing:
        raise UserError(missing)


def _with_preprocessing(overrides: Sequence[str]) -> list[str]:
    """The overrides with a preprocessing: asked for where somebody can answer, for a guess would be a silent fault.

    Raises:
        UserError: it is not given, and nobody can answer.
    """
    if any(word.lstrip("+").startswith(("preprocessing=", "model.preprocessing")) for word in overrides):
        return list(overrides)
    choices = _preprocessings()
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        listed = "; ".join(f"preprocessing={name}: {text}" for name, text in choices.items())
        raise UserError(
            "'preprocessing' is missing: the file does not say which images the network was trained with, and the "
            f"wrong ones give wrong masks without an error. Choose one ({listed}); for instance {EXAMPLE}"
        )
    from rich.prompt import Prompt

    for name, text in choices.items():
        print(f"{name:<12}{text}")
    return [*overrides, f"preprocessing={Prompt.ask('Which images was it trained with?', choices=list(choices))}"]


def _preprocessings() -> dict[str, str]:
    """What there is to choose from, each with its first line of explanation."""
    from tta_bench.runtime.paths import CONFIG_DIR

    files = sorted((CONFIG_DIR / "preprocessing").glob("*.yaml"))
    return {file.stem: file.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ") for file in files}


def _probe(file: Path, model: SegmentationModel, size: int) -> None:
    """Show the network an image of the size that it will see.

    Raises:
        UserError: its output is not finite.
    """
    import torch

    from tta_bench.models.probe import probe_images

    with torch.no_grad():
        if not model.eval()(probe_images(size)[:1].float()).isfinite().all():
            raise UserError(f"{file}: the network's output for a probe image is not finite: its weights are damaged")


def _words(out: Path, model: ModelConfig, data: DataConfig, domain: str | None) -> list[str]:
    """The command line that uses the checkpoint."""
    options = {f"model.options.{key}": value for key, value in model.options.items()}
    keys: Mapping[str, object] = {
        "checkpoint": out,
        "model": model.name,
        "model.architecture": model.architecture,
        "model.encoder": model.encoder,
        "data.image_size": data.image_size,
        "data.fit": data.fit,
        "data.classes": "{" + ", ".join(f"{name}: {[*values]}" for name, values in data.classes.items()) + "}",
        "data.exclusive": "true" if data.exclusive else None,
    }
    widths = model.decoder_channels and f"[{','.join(map(str, model.decoder_channels))}]"
    said = {**keys, "model.decoder_channels": widths, **options}
    return [
        "python -m tta_bench +method=grata",
        *(shlex.quote(f"{key}={value}") for key, value in said.items() if value is not None),
        "data=folder data.root=DIR",
        shlex.quote(f"source={domain or 'NAME'}"),
    ]
