"""Whether source models can be trained and networks built and adapted, found out before any image is prepared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache

import torch

from tta_bench.cell import Cell
from tta_bench.data.held_out import usable
from tta_bench.data.prepare import prepared
from tta_bench.data.readers.base import open_reader
from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import method_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.build import build_model
from tta_bench.models.encoder import build_encoder
from tta_bench.models.probe import brief, probe_images
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.ops.probabilities import Activation
from tta_bench.schema import ModelConfig, RunConfig
from tta_bench.source.held_out import divide
from tta_bench.source.train import model_path


def check_source_images(configs: Iterable[RunConfig]) -> None:
    """Count the images that source models are to be trained on.

    Args:
        configs: of all runs.

    Raises:
        UserError: every source that has too few.
    """
    faults: dict[str, None] = {}
    known: dict[str, int | None] = {}
    for config in (each for run in configs for each in run.of_each_source()):
        if config.checkpoint is None:
            key = f"{config.source} {bool(config.stages)} of {config.data.model_dump_json()}"
            if key not in known:
                known[key] = _count(config)
            count = known[key]
            try:
                if count is not None:
                    divide(config.source, count, config.training)
            except UserError as error:
                faults |= dict.fromkeys(error.faults)
    if faults:
        raise UserError(list(faults))


def _count(config: RunConfig) -> int | None:
    """How many images the source has; None where they cannot be listed: the run itself says so."""
    try:
        count = len(open_reader(config.data).records(config.source)[: config.data.limit])
    except UserError:
        return None
    return len(usable(config.source, count, config.protocol.evaluation)) if config.stages else count


def unfinished(configs: Iterable[RunConfig]) -> list[RunConfig]:
    """The runs that need a network: those whose cells are not all finished, and searches."""
    return [c for c in configs if c.force or c.tune or not all(cell.finished() for cell in Cell.all_of(c))]


def check_networks(configs: Iterable[RunConfig]) -> None:
    """Build each network once, with random weights, and put each of its methods on it.

    The paper's network is fixed, and every method runs on it where classes may overlap: it is not built there.

    Args:
        configs: of all runs.

    Raises:
        UserError: every network that cannot be used, and every method that cannot work on its network.
    """
    methods: dict[tuple[ModelConfig, int, Activation, int], dict[str, None]] = {}
    for config in configs:
        if config.model.name != "resunet34" or config.data.activation != "sigmoid":
            model = config.model.model_copy(update={"encoder_weights": None})
            network = model, len(config.data.classes), config.data.activation, config.data.image_size
            methods.setdefault(network, {})[json.dumps(config.method)] = None
    faults = [fault for network, texts in methods.items() for fault in _faults(*network, tuple(texts))]
    if faults:
        raise UserError(list(dict.fromkeys(faults)))


def check_pretrained_weights(configs: Iterable[RunConfig]) -> None:
    """Find out once, before the first run, whether the weights that encoders start from can be had.

    Those of the hub are in its cache afterwards. Runs whose source model is finished need none.

    Args:
        configs: of all runs.

    Raises:
        UserError: all weights that can neither be downloaded nor read.
    """
    faults: list[str] = []
    for encoder, weights in dict.fromkeys((c.model.encoder, c.model.encoder_weights) for c in configs if _trains(c)):
        assert encoder is not None  # only encoders have weights
        try:
            build_encoder(encoder, weights)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)


def _trains(config: RunConfig) -> bool:
    """Whether a run has to train a source model from pretrained weights."""
    if config.checkpoint is not None or config.model.encoder is None or config.model.encoder_weights is None:
        return False
    try:
        domain = prepared(config, [config.source])[config.source]
    except UserError:  # the run itself says so, and the others go on
        return False
    return not model_path(config, domain, config.results_root).exists()


@cache
def _faults(
    config: ModelConfig, classes: int, activation: Activation, size: int, methods: tuple[str, ...]
) -> list[str]:
    """Why a network, or one of the methods (sections of the configuration, as JSON) on it, cannot be used."""
    try:
        model = usable_model(config, classes, size, activation)
    except UserError as error:
        return list(error.faults)
    faults: list[str] = []
    networks: dict[tuple[str, ...], AdaptableNetwork] = {}
    for method in map(json.loads, methods):
        kind, options = METHODS.get(method["name"]), method_options(method)
        branches = kind.branches(options)
        try:
            if branches not in networks:
                networks[branches] = AdaptableNetwork(model, branches, image_size=size)
            kind(networks[branches], options)
        except UserError as error:
            faults += [f"method={method['name']} with {_called(config)}: {text}" for text in error.faults]
    return faults


def usable_model(config: ModelConfig, classes: int, size: int, activation: Activation = "sigmoid") -> SegmentationModel:
    """The network with random weights, shown to segment an image; the global random state stays as it is.

    Args:
        config: architecture.
        classes: as of :func:`~tta_bench.models.build.build_model`.
        size: side of the image, pixels.
        activation: likewise.

    Raises:
        UserError: it cannot be built, or cannot segment such an image.
    """
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model = build_model(config, classes, activation=activation, pretrained=False).eval()
            shape = tuple(model(probe_images(size, model.in_channels)[:1].float()).shape)
        if shape != (1, classes + (activation == "softmax"), size, size):
            raise ValueError(f"its output is of {' x '.join(map(str, shape[2:]))} pixels")
    except UserError:
        raise
    except Exception as error:  # of libraries, of any kind
        images = f"images of {size} x {size} pixels ({brief(error)})"
        if config.encoder is None or config.architecture is not None:
            remedy = "mend it, choose another network, or another data.image_size"
            raise UserError(f"{_called(config)} cannot segment {images}: {remedy}") from None
        raise UserError(
            f"{_called(config)} cannot be the encoder of a U-Net for {images}: it needs feature maps at five scales, "
            "1/2 to 1/32 (or four from 1/4 on) of the image; choose another encoder, or another data.image_size"
        ) from None
    return model


def _called(config: ModelConfig) -> str:
    """What a user chooses the network by: an encoder, or the name of one that has none to choose."""
    if config.architecture is not None:
        return f"model.architecture={config.architecture}"
    return f"model={config.name}" if config.encoder is None else f"model.encoder={config.encoder}"
