"""A network that somebody else wrote, as a segmentation model: any module from images to logits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tta_bench.errors import UserError, nearest
from tta_bench.models.probe import brief, probe_images
from tta_bench.models.segmentation import Activations, SegmentationModel
from tta_bench.ops.preprocessing import PAPER, Preprocessing
from tta_bench.ops.probabilities import Activation

FEATURES = ("bottleneck", "head_input")
"""Inner feature maps that methods may ask for: fields of :class:`~tta_bench.models.segmentation.Activations`."""

SIZES = (64, 224, 256, 512)
"""Sides of the square images that a network is tried on, pixels; some take one size only."""


class ForeignNetwork(SegmentationModel):
    """Any module that maps images ``[N, C, H, W]`` to logits, with feature maps taken from modules on the way.

    Logits are what the module returns, the first of a tuple or list, or what stands in a mapping as ``out``.

    Args:
        network: it is copied, never changed; the copy is in evaluation mode, and of half precision as float32.
        activation: what the logits stand for.
        preprocessing: of the images it was trained on.
        features: one of :data:`FEATURES` -> name of the module whose output it is, of several outputs the last; those
            of torchvision's and segmentation-models-pytorch's networks are known.
        branches: name of a pretext task -> its head, which takes the bottleneck.

    Raises:
        UserError: a module that there is not, a network that takes no image or returns no logits.

    Attributes:
        image_size: side of a square image that it takes, pixels.
        in_form: puts logits into what the network returns them in.
    """

    probe_sizes = (64,)  # of smaller ones its deepest maps may be of one pixel, which hides what a layer does to others

    def __init__(
        self,
        network: nn.Module,
        *,
        activation: Activation = "sigmoid",
        preprocessing: Preprocessing = PAPER,
        features: Mapping[str, str] | None = None,
        branches: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__(bottleneck_channels=0)
        self.network = copy.deepcopy(plain_module(network)).eval()
        self.branches.update({name: copy.deepcopy(head).eval() for name, head in (branches or {}).items()})
        if any(value.dtype in (torch.float16, torch.bfloat16) for value in self.state_dict().values()):
            self.float()  # an update is smaller than the distance of two numbers of half precision
        self.activation = activation
        self.expect(preprocessing)
        self.features_at = {**known_features(self.network), **(features or {})}
        names = [name for name, _ in self.network.named_modules(remove_duplicate=False) if name]
        for key, name in self.features_at.items():
            if key not in FEATURES:
                raise UserError(f"features={{{key!r}: …}}: {nearest(key, FEATURES)}")
            if name not in names:
                raise UserError(f"features={{{key!r}: {name!r}}}: there is no such module; {nearest(name, names)}")
        self.image_size, self.in_channels, self.in_form = self._tried()

    def _tried(self) -> tuple[int, int, Callable[[Tensor], Any]]:
        """A size and a number of channels that the network takes, and the form of its output."""
        like = next((value for value in self.parameters() if value.is_floating_point()), torch.empty(()))
        convolutions = [module.in_channels for module in self.network.modules() if isinstance(module, nn.Conv2d)]
        fault: Exception | None = None
        for size in SIZES:
            for channels in dict.fromkeys((*convolutions[:1], 3, 1)):
                images = probe_images(size, channels)[:1].to(like)
                try:
                    with torch.no_grad():
                        output = self.network(self.network_input(images))
                except Exception as error:  # of a user's network, of any kind
                    fault = fault or error
                    continue
                logits_of(output)
                self.activations(images)
                return size, channels, _form_of(output)
        raise UserError(f"the network takes no image [1, C, H, W] ({brief(fault)}): give one that does")

    def require(self, method: str, features: Sequence[str], branches: Sequence[str]) -> None:
        """Refuse a method that needs more than is known of this network.

        Raises:
            UserError: each inner feature map and each branch that is lacking, and how to give it.
        """
        needed = dict.fromkeys((*features, *(["bottleneck"] if branches else [])))
        lacking = [name for name in needed if name not in self.features_at]
        heads = [name for name in branches if name not in self.branches]
        faults = []
        if lacking:
            modules = ", ".join(name for name, _ in self.network.named_children())
            example = ", ".join(f'"{name}": "NAME"' for name in lacking)
            faults.append(
                f"{method} needs {' and '.join(lacking)} of the network, and this network is not known: give "
                f"features={{{example}}} with the name of the module whose output it is, one of {modules}, or inside"
            )
        for name in heads:
            faults.append(
                f"{method} needs a branch that was trained with the network: give branches={{'{name}': HEAD}}, a "
                "module that takes the bottleneck"
            )
        if faults:
            raise UserError(faults)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes, H, W]`` of images ``[N, C, H, W]`` in [0, 1], of any size that the network takes."""
        return logits_of(self.network(self.network_input(images)))

    def activations(self, images: Tensor) -> Activations:
        """See :class:`SegmentationModel`; a feature map that nobody named is empty.

        The input of the classifier has the resolution of the logits, by bilinear interpolation where it needs one.
        """
        kept: dict[str, Tensor] = {}

        def keep(key: str) -> Callable[[nn.Module, Any, Any], None]:
            return lambda module, inputs, output: kept.update({key: self._feature(key, output)})

        places = {key: self.network.get_submodule(name) for key, name in self.features_at.items()}
        handles = [module.register_forward_hook(keep(key)) for key, module in places.items()]
        try:
            logits = self(images)
        finally:
            for handle in handles:
                handle.remove()
        for key, name in self.features_at.items():
            if key not in kept:
                raise UserError(f"features={{{key!r}: {name!r}}}: the network does not call this module for an image")
        bottleneck, head_input = (kept.get(key, logits.new_empty(0)) for key in FEATURES)
        if head_input.dim() == 4 and head_input.shape[2:] != logits.shape[2:]:
            head_input = F.interpolate(head_input, logits.shape[2:], mode="bilinear", align_corners=False)
        return Activations(bottleneck, head_input, logits)

    def _feature(self, key: str, output: Any) -> Tensor:
        """The feature map in what a module returns."""
        if isinstance(output, Mapping):
            output = output.get("out", [*output.values()][-1])
        elif isinstance(output, list | tuple) and output:
            output = output[-1]
        if not isinstance(output, Tensor) or output.dim() != 4:
            raise UserError(
                f"features={{{key!r}: {self.features_at[key]!r}}}: the output of this module is no feature map "
                "[N, C, H, W]; name another one"
            )
        return output

    def features(self, images: Tensor) -> list[Tensor]:
        """The bottleneck alone."""
        return [self.activations(images).bottleneck]

    def encode(self, images: Tensor) -> Any:
        """Not on its own: what runs in which order is the network's business."""
        raise NotImplementedError("a foreign network runs as a whole")

    decode = classify = encode  # type: ignore[assignment]

    def branch_of(self, name: str, features: list[Tensor]) -> Tensor:
        """See :class:`SegmentationModel`; the head takes the bottleneck as it is."""
        return self.branches[name](features[-1])


def plain_module(network: nn.Module) -> nn.Module:
    """The module inside of what ``DataParallel`` and ``torch.compile`` make of one.

    Raises:
        UserError: it is no module, has no weights yet, or is compiled by TorchScript.
    """
    if not isinstance(network, nn.Module):
        raise UserError(f"the network is a {type(network).__name__}: give a torch.nn.Module")
    while isinstance(inner := _wrapped(network), nn.Module):
        network = inner
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise UserError("TorchScript has compiled the network, so that its layers cannot be adapted: give the module")
    if any(value.is_meta for value in network.state_dict().values()):
        raise UserError("the network is on the device 'meta' and has no weights: load them first")
    return network


def _wrapped(network: nn.Module) -> Any:
    parallel = isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel)
    return getattr(network, "module" if parallel else "_orig_mod", None)


def known_features(network: nn.Module) -> dict[str, str]:
    """Where the networks of segmentation-models-pytorch and torchvision have the feature maps; nothing for others."""
    if all(isinstance(getattr(network, name, None), nn.Module) for name in ("encoder", "decoder", "segmentation_head")):
        return {"bottleneck": "encoder", "head_input": "decoder"}
    classifier = getattr(network, "classifier", None)
    if isinstance(getattr(network, "backbone", None), nn.Module) and isinstance(classifier, nn.Sequential):
        return {"bottleneck": "backbone", "head_input": f"classifier.{len(classifier) - 2}"}
    return {}


def logits_of(output: Any) -> Tensor:
    """Logits ``[N, classes, H, W]`` in what a network returns.

    Raises:
        UserError: there are none.
    """
    logits = output.get("out") if isinstance(output, Mapping) else output
    if isinstance(logits, list | tuple) and logits:
        logits = logits[0]
    if not isinstance(logits, Tensor) or logits.dim() != 4:
        raise UserError(
            "the network does not return logits [N, classes, H, W], as a tensor, the first of a tuple or the key "
            "'out' of a dict: put it into a module that does"
        )
    return logits


def _form_of(output: Any) -> Callable[[Tensor], Any]:
    """The inverse of :func:`logits_of`; other outputs are lost."""
    if isinstance(output, Mapping):
        return _in_mapping
    if isinstance(output, list | tuple):
        return _in_list if isinstance(output, list) else _in_tuple
    return _bare


def _in_mapping(logits: Tensor) -> dict[str, Tensor]:
    return {"out": logits}


def _in_list(logits: Tensor) -> list[Tensor]:
    return [logits]


def _in_tuple(logits: Tensor) -> tuple[Tensor]:
    return (logits,)


def _bare(logits: Tensor) -> Tensor:
    return logits
