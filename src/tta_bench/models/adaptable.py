"""The network as a function of its adaptable state: ``logits = network(images, theta, statistics)``.

The state of all streams is one matrix ``theta`` ``[streams, scalars]``: each row holds the affine scale and shift
of every normalisation layer for one stream. Everything else in the network is frozen and shared.

Methods that adapt more than that use longer rows, of all parameters of the segmentation path (``source_parameters``).
Even then the shared network is never written to: each row stands in for its parameters during one pass.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.checkpoint import checkpoint

from tta_bench.errors import UserError
from tta_bench.models.bank import Bank
from tta_bench.models.folded import is_one_row
from tta_bench.models.frozen import freeze
from tta_bench.models.graphs import Graphs, replayable
from tta_bench.models.joined import join
from tta_bench.models.late_map import late_map
from tta_bench.models.normalisation import BatchStatistics, SourceStatistics, Statistics
from tta_bench.models.normalisation_layer import NormalisationLayer
from tta_bench.models.probe import check_activation, check_probe, take_probe
from tta_bench.models.segmentation import Activations, SegmentationModel
from tta_bench.models.wrapping import AFFINE, OwnStatisticsLayer, standing_in, wrap_normalisation
from tta_bench.ops.geometry import stacked, unstacked
from tta_bench.ops.preprocessing import Preprocessing
from tta_bench.ops.probabilities import CLASSES, Activation, probabilities
from tta_bench.runtime.numerics import in_precision, placement
from tta_bench.runtime.precision import Precision


class AdaptableNetwork(nn.Module):
    """A frozen copy of a source model whose affine normalisation parameters are an argument.

    Under the source statistics and parameters it is the source model: their outputs are compared on a probe image.

    Args:
        model: the source model; it is copied, never changed.
        branches: auxiliary branches whose normalisation layers are adapted too, in this order after the
            segmentation path.
        image_size: side of the square images, pixels, of a model that takes no others; the probe has 64 where it may.
        tiled: whether an image is a stack of square tiles, ``[C, tiles * side, side]``. The network sees the tiles;
            statistics are those of the image, over all of them; maps of the image are stacks again.

    Raises:
        UserError: no normalisation layer that can be adapted, a branch that the source model does not have, a model
            that takes no image, an activation that there is not, or a model that the copy is not equal to.

    Attributes:
        layers: adapted normalisation layers by name, in module order within the segmentation path and each branch.
        left: normalisation layers that stay as they are, name -> kind and reason.
        reused: names of layers that one pass runs several times.
        source_theta: ``[scalars]``, per layer first the scale, then the shift of all its channels.
        forwards: images per stream that have passed through the network since construction.
        channels_last: whether the network takes images whose pixels have their channels side by side.
    """

    source_theta: Tensor

    def __init__(
        self,
        model: SegmentationModel,
        branches: Sequence[str] = (),
        *,
        image_size: int | None = None,
        tiled: bool = False,
    ) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        probe = take_probe(self.model, image_size)
        check_activation(self.activation, probe.expected.shape[CLASSES])
        wrapped = wrap_normalisation(self.model)
        self._all_layers, self.left = wrapped.layers, wrapped.left
        join(self.model)
        self.layers = self._adapted(branches)
        affine = [value for layer in self.layers.values() for value in (layer.source_weight, layer.source_bias)]
        self._sizes = [value.numel() for value in affine]
        self.register_buffer("source_theta", torch.cat(affine))
        self.tiled = tiled
        self._layouts: dict[tuple[torch.device, int], Tensor] = {}
        self.images_per_pass: int | None = None
        self.images_with_graph = 0
        self.graphs: Graphs | None = None
        self.precision: Precision = "f32"
        self.dtype = torch.float32
        self.forwards = 0
        self.channels_last = self._frozen = True
        try:
            calls = check_probe(probe, self, self.source_theta)
        except UserError:
            self.channels_last = False  # a network may ask for maps that lie plane by plane
            calls = check_probe(probe, self, self.source_theta)
        if self.channels_last:
            freeze(self.model)
        self.reused = {name for name, layer in self._all_layers.items() if calls[layer] > 1}
        self.forwards = 0
        if probe.dtype is not None:
            self.to(probe.dtype)

    def compute_in(self, precision: Precision, dtype: torch.dtype) -> None:
        """Keep activations and the weights of convolutions in ``dtype``; theta, statistics and outputs stay.

        Args:
            precision: whose products its caller asks of :func:`~tta_bench.runtime.numerics.numerics`.
            dtype: what its device makes of it: ``torch.bfloat16``, or ``torch.float32`` for the source model's own.
        """
        self.precision, self.dtype = precision, dtype
        if dtype != torch.float32:
            for module in self.model.modules():
                if isinstance(module, _ConvNd | nn.Linear):
                    module.to(dtype)  # once, and not at every pass

    def _adapted(self, branches: Sequence[str]) -> dict[str, NormalisationLayer | OwnStatisticsLayer]:
        """The layers with affine parameters of the segmentation path, then those of each branch."""
        for branch in branches:
            if branch not in self.model.branches:
                raise UserError(f"the source model has no branch '{branch}': train one with model.branches=[{branch}]")
        affine = {name: layer for name, layer in self._all_layers.items() if layer.affine}
        layers = {name: layer for name, layer in affine.items() if not name.startswith("branches.")}
        if not layers:
            left = f" ({listed(self.left)})" if self.left else ""
            raise UserError(
                f"the network has no normalisation layer that can be adapted{left}: choose one with "
                "such a layer, model.encoder=resnet18 for instance"
            )
        for branch in branches:
            layers |= {name: layer for name, layer in affine.items() if name.startswith(f"branches.{branch}.")}
        return layers

    @property
    def activation(self) -> Activation:
        """What the logits stand for, as the source model says."""
        return self.model.activation

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of every class, in the shape of the logits ``[..., classes, H, W]``."""
        return probabilities(logits, self.activation)

    @property
    def preprocessing(self) -> Preprocessing:
        """Of the source model: the images given here are in [0, 1], what follows is done at the network's border."""
        return self.model.preprocessing

    @property
    def bank(self) -> Bank | None:
        """Of the source model; None where the method may see none."""
        return self.model.bank

    @property
    def batch_norm_layers(self) -> dict[str, NormalisationLayer]:
        """By name, all layers whose statistics are a policy, those of branches and those without affine included."""
        return {name: layer for name, layer in self._all_layers.items() if isinstance(layer, NormalisationLayer)}

    @property
    def source_statistics(self) -> tuple[Tensor, Tensor]:
        """Source mean and variance of :attr:`batch_norm_layers`, each ``[channels of all of them]``."""
        layers, none = self.batch_norm_layers.values(), self.source_theta[:0]
        return torch.cat([none, *(layer.source_mean for layer in layers)]), torch.cat(
            [none, *(layer.source_variance for layer in layers)]
        )

    def describe(self) -> str:
        """How many layers of which kind are adapted, and which are not and why."""
        kinds = Counter(layer.kind for layer in self.layers.values())
        text = f"{len(self.layers)} normalisation layers ({', '.join(f'{n} {kind}' for kind, n in kinds.items())})"
        image_only = sum(isinstance(layer, OwnStatisticsLayer) for layer in self.layers.values())
        text += f", {image_only} of them always with the image's own statistics" if image_only else ""
        left = {name: why for name, why in self.left.items() if not name.startswith("branches.")}
        return text + (f", {len(left)} more left as they are: {listed(left)}" if left else "")

    @property
    def source_parameters(self) -> Tensor:
        """:attr:`source_theta`, then all other parameters of the segmentation path: ``[scalars]``.

        Rows that start here may take the place of ``theta`` in :meth:`forward`.
        """
        return torch.cat([self.source_theta, *(value.flatten() for value in self._other_parameters().values())])

    def _other_parameters(self) -> dict[str, nn.Parameter]:
        """By name, in module order, those outside the branches that are not affine ones of a normalisation layer."""
        named = self.model.named_parameters(prefix="model")
        return {name: value for name, value in named if not name.startswith("model.branches.")}

    def named_values(self, row: Tensor) -> dict[str, Tensor]:
        """A row of theta (or of all parameters) by the names in the source model, each flat."""
        affine = [f"{layer}.{name}" for layer in self.layers for name in AFFINE]
        others = self._other_parameters() if len(row) > len(self.source_theta) else {}
        sizes = [*self._sizes, *(value.numel() for value in others.values())]
        names = [*affine, *(name.removeprefix("model.") for name in others)]
        return dict(zip(names, row.split(sizes), strict=True))

    def tensor_slices(self) -> list[slice]:
        """Where each affine tensor (scale or shift of one layer) lies in a row of theta."""
        return [slice(end - size, end) for end, size in zip(accumulate(self._sizes), self._sizes, strict=True)]

    def forward(self, images: Tensor, theta: Tensor, statistics: Statistics | None = None) -> Tensor:
        """Logits ``[S * V, classes, H, W]``.

        Args:
            images: ``[S * V, 3, H, W]``, the views of one stream next to each other.
            theta: ``[S, scalars]``: affine rows, or rows of all parameters as in :attr:`source_parameters`.
            statistics: normalisation policy; default :class:`BatchStatistics` (of each image on its own).
        """
        statistics = statistics or BatchStatistics()
        views, limit = len(images) // len(theta), max(1, (self.images_per_pass or len(images)) // self.tiles(images))
        kept = self.images_with_graph // self.tiles(images)
        if torch.is_grad_enabled() and statistics.per_image and views > max(limit, kept):
            return self._recomputed(images, theta, statistics, limit, kept // limit)
        if theta.shape[1] > self.source_theta.numel():
            return self._with_all_parameters(images, theta, statistics)
        if torch.is_grad_enabled() or not statistics.per_image:
            return self._logits(images, theta, statistics)
        # Without a graph a few images at a time take less memory and time; a row of each spares the layers to make it.
        if views > 1:
            theta = theta[:1].expand(len(images), -1) if is_one_row(theta) else theta.repeat_interleave(views, dim=0)
        before = self.forwards
        parts = [self._logits(*each, statistics) for each in zip(images.split(limit), theta.split(limit), strict=True)]
        self.forwards = before + views
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _recomputed(self, images: Tensor, theta: Tensor, statistics: Statistics, limit: int, kept: int) -> Tensor:
        """As :meth:`forward`, ``limit`` views of a stream at a time; the last ``kept`` parts keep their activations.

        The others pass again when their gradient is asked for, which is after that of the last.
        """

        def logits_of(part: Tensor, rows: Tensor) -> Tensor:
            before = self.forwards
            try:
                return self(part.flatten(0, 1), rows, statistics).unflatten(0, part.shape[:2])
            finally:  # the second time it ends by an exception, as soon as there is what the gradient needs
                self.forwards = before

        parts = images.unflatten(0, (len(theta), -1)).split(limit, dim=1)
        again, once = parts[: len(parts) - kept], parts[len(parts) - kept :]
        logits = [checkpoint(logits_of, part, theta, use_reentrant=False, preserve_rng_state=False) for part in again]
        logits += [logits_of(part, theta) for part in once]
        self.forwards += len(images) // len(theta)
        return torch.cat(logits, dim=1).flatten(0, 1)

    def _with_all_parameters(self, images: Tensor, rows: Tensor, statistics: Statistics) -> Tensor:
        """As :meth:`forward` for rows of all parameters."""
        others = self._other_parameters()
        sizes = [self.source_theta.numel(), *(value.numel() for value in others.values())]

        def logits_of(row: Tensor, views: Tensor) -> Tensor:
            theta, *values = row.split(sizes)
            parameters = [value.view(other.shape) for value, other in zip(values, others.values(), strict=True)]
            with standing_in(self.model, dict(zip(others.values(), parameters, strict=True))):
                return self(views, theta[None], statistics)

        before, per_stream = self.forwards, images.unflatten(0, (len(rows), -1))
        self._frozen = False
        try:
            if len(rows) > 1 and placement(images.device, self.dtype).side_by_side:
                logits = torch.vmap(logits_of)(rows, per_stream)
            else:
                streams = zip(rows.unbind(), per_stream.unbind(), strict=True)
                logits = torch.stack([logits_of(*each) for each in streams])
        finally:
            self._frozen = True
        self.forwards = before + per_stream.shape[1]
        return logits.flatten(0, 1)

    def activations(self, images: Tensor, theta: Tensor, statistics: Statistics) -> Activations:
        """Logits together with the intermediate feature maps that some methods use; arguments as above."""
        return Activations(*self._passed("activations", self.model.activations, images, theta, statistics))

    def logits_and_late_map(self, images: Tensor, theta: Tensor, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """Logits, and the map that :mod:`~tta_bench.models.late_map` takes on the way; arguments as above."""
        with self._in_force(images, theta, statistics) as tiles:

            def through(output: Tensor) -> tuple[Tensor, Tensor]:
                whole = stacked(output.float() if self.dtype != torch.float32 else output, tiles)
                return whole, unstacked(whole.clone(), tiles).to(output.dtype)

            with late_map(self.model, through) as found:
                logits = self.model(self._taken(images, tiles))
        return self._given_back(logits, tiles), found.take()

    def _logits(self, images: Tensor, theta: Tensor, statistics: Statistics) -> Tensor:
        return self._passed("logits", lambda x: (self.model(x),), images, theta, statistics)[0]

    def _passed(
        self, key: str, run: Callable[[Tensor], Sequence[Tensor]], images: Tensor, theta: Tensor, statistics: Statistics
    ) -> tuple[Tensor, ...]:
        """What ``run`` makes of the network's input, the policy and the rows in force; ``key`` names it."""

        def compute(theta: Tensor, images: Tensor) -> tuple[Tensor, ...]:
            with self._in_force(images, theta, statistics) as tiles:
                made = run(self._taken(images, tiles))
            return tuple(self._given_back(each, tiles) for each in made)

        if not self._frozen:
            return compute(theta, images)
        return replayable(self, key, compute, statistics, theta, images)

    def tiles(self, images: Tensor) -> int:
        """How many tiles each of the images ``[N, C, H, W]`` is made of."""
        height, width = images.shape[-2:]
        return height // width if self.tiled else 1

    def branch(self, name: str, images: Tensor, theta: Tensor, statistics: Statistics | None = None) -> Tensor:
        """Output of an auxiliary branch, of a vector its mean over the tiles; arguments as in :meth:`forward`.

        Raises:
            KeyError: the source model has no such branch.
        """
        statistics = statistics or BatchStatistics()
        return self._passed(f"branch {name}", lambda x: (self.model.branch(name, x),), images, theta, statistics)[0]

    def branch_and_logits(
        self, name: str, images: Tensor, theta: Tensor, statistics: Statistics
    ) -> tuple[Tensor, Tensor]:
        """Output of an auxiliary branch and logits, from one pass of the encoder; arguments as in :meth:`branch`."""

        def run(x: Tensor) -> tuple[Tensor, Tensor]:
            activations = self.model.activations(x)
            return self.model.branch_of(name, [activations.bottleneck]), activations.logits

        return self._passed(f"{name} and logits", run, images, theta, statistics)  # type: ignore[return-value]

    def _by_layer(self, theta: Tensor) -> Sequence[Tensor]:
        """Scale and shift of each layer, ``[S, channels]`` and each contiguous, from affine rows ``[S, scalars]``."""
        if len(theta) == 1:
            return theta.split(self._sizes, dim=1)
        key = theta.device, len(theta)
        if key not in self._layouts:
            places = torch.arange(theta.numel(), dtype=torch.int32).view(theta.shape).split(self._sizes, dim=1)
            self._layouts[key] = torch.cat([each.flatten() for each in places]).to(theta.device)
        # All are moved by one kernel, not each by its own.
        parts = theta.flatten().index_select(0, self._layouts[key]).split([len(theta) * size for size in self._sizes])
        return [part.view(len(theta), -1) for part in parts]

    @contextmanager
    def _in_force(self, images: Tensor, theta: Tensor, statistics: Statistics) -> Iterator[int]:
        """Give every layer its policy and its rows of theta, and take them away afterwards; tells :meth:`tiles`."""
        count, tiles = len(images), self.tiles(images)
        if count % len(theta):
            raise ValueError(f"{count} images do not divide into {len(theta)} streams")
        layers = [vars(layer) for layer in self._all_layers.values()]  # a module asks long what is assigned to it
        for layer in layers:
            layer.update(statistics=statistics, tiles=tiles)
        if not self._is_source(images, theta, statistics):
            tensors = self._by_layer(theta)
            for adapted, weight, bias in zip(self.layers.values(), tensors[::2], tensors[1::2], strict=True):
                vars(adapted).update(weight_rows=weight, bias_rows=bias)
        try:
            with in_precision(images.device, self.dtype):
                yield tiles
        finally:
            for layer in layers:
                layer.update(statistics=SourceStatistics(), tiles=1, weight_rows=None, bias_rows=None)
            self.forwards += count // len(theta)

    def _is_source(self, images: Tensor, theta: Tensor, statistics: Statistics) -> bool:
        """Whether a pass is the source model's own, where that is faster than by rows: then layers are left theirs."""
        return (
            placement(images.device, self.dtype).folded
            and isinstance(statistics, SourceStatistics)
            and self._frozen
            and not torch.is_grad_enabled()
            and is_one_row(theta)
            and theta[0].is_set_to(self.source_theta)
        )

    def _taken(self, images: Tensor, tiles: int) -> Tensor:
        """What the layers are given: single tiles, as they lie fastest in the memory of their device."""
        pieces = unstacked(images, tiles)
        where = placement(images.device, self.dtype, self.precision)
        from_pixels = 0 if self._frozen else where.varied_channels_last_from
        gains = from_pixels is not None and pieces.shape[2:].numel() >= from_pixels
        if gains and self.channels_last and where.channels_last:
            return pieces.contiguous(memory_format=torch.channels_last)
        return pieces

    def _given_back(self, made: Tensor, tiles: int) -> Tensor:
        """What the network made, as its caller computes with it."""
        whole = stacked(made, tiles)
        if self.dtype != torch.float32:
            whole = whole.to(torch.float32, memory_format=torch.contiguous_format)  # both in one copy
        return whole.contiguous()


def listed(left: dict[str, tuple[str, str]]) -> str:
    """``3 BatchNorm1d, 1 LayerNorm``, each kind with its reason."""
    counts = Counter(left.values())
    return ", ".join(f"{count} {kind} ({reason})" for (kind, reason), count in counts.items())
