"""What adapts and predicts an image, of a benchmark as of a user: one place, so that both are the same."""

from __future__ import annotations

import torch

from tta_bench.adaptation.scenarios.base import scenario_of
from tta_bench.methods.base import METHODS, Method, MethodOptions, Protocol
from tta_bench.methods.options import method_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.checkpoint import SourceModel
from tta_bench.models.placement import place
from tta_bench.ops.masks import Finish, nested_classes
from tta_bench.schema import RunConfig


def method_on(config: RunConfig, source: SourceModel, device: torch.device) -> Method:
    """The method of a run, on an adaptable network of its own.

    Args:
        config: the run, with the fit and the size that the source model expects.
        source: the source model.
        device: where the network is put.

    Raises:
        UserError: the method cannot work on this network.
    """
    options = method_options(config.method)
    return method_of(config, network_on(config, source, options, device), options)


def network_on(
    config: RunConfig, source: SourceModel, options: MethodOptions, device: torch.device
) -> AdaptableNetwork:
    """The adaptable network of a run with these options of its method; arguments otherwise as of :func:`method_on`."""
    branches, size = METHODS.get(config.method["name"]).branches(options), source.image_size
    network = AdaptableNetwork(source.model, branches, image_size=size, tiled=config.data.fit == "tile")
    return place(network, device, size, config.precision, config.runtime.graphs is not False)


def method_of(config: RunConfig, network: AdaptableNetwork, options: MethodOptions) -> Method:
    """The method of a run with these options, by its protocol."""
    protocol, episodic = config.protocol, scenario_of(config.protocol.reset).episodic
    kind = METHODS.get(config.method["name"])
    return kind(network, options, Protocol(episodic, protocol.steps, protocol.predict))


def finish_of(config: RunConfig, source: SourceModel) -> Finish:
    """What makes masks of the method's logits, once they have the size that counts."""
    nested = nested_classes(source.classes) if config.predict.nest else ()
    return Finish(source.model.activation, config.protocol.threshold, nested)
