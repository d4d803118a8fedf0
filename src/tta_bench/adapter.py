"""A method on anybody's network: images in, logits out, without a command line."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tta_bench.errors import UserError, nearest
from tta_bench.methods.base import METHODS, Method, Protocol
from tta_bench.methods.options import TUNED, default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.bank import make_bank
from tta_bench.models.build import preprocessing_called
from tta_bench.models.export import plain_copy
from tta_bench.models.foreign import ForeignNetwork
from tta_bench.models.probe import probe_images
from tta_bench.ops.draws import ImageKey
from tta_bench.ops.preprocessing import PAPER, Preprocessing
from tta_bench.ops.probabilities import Activation
from tta_bench.runtime.memory import KEPT_PIXELS
from tta_bench.runtime.numerics import numerics, placement

ROUNDING = 1e-3
"""How far a pixel may lie outside its range, as a fraction of the range."""


def preprocessing_to(low: float | Sequence[float], high: float | Sequence[float]) -> Preprocessing:
    """The preprocessing whose results lie between two values, of each channel or of all.

    Raises:
        UserError: the values are not ascending, or as many.
    """
    lows, highs = (tuple(each) if isinstance(each, Sequence) else (each,) for each in (low, high))
    if len(lows) != len(highs) or not all(math.isfinite(b - a) and a < b for a, b in zip(lows, highs, strict=True)):
        raise UserError(f"value_range=({low}, {high}): give the lowest and the highest value, or these of each channel")
    if set(lows) == {0} and set(highs) == {1}:
        return PAPER
    ends = [*zip(lows, highs, strict=True)]
    return Preprocessing(mean=tuple(-a / (b - a) for a, b in ends), std=tuple(1 / (b - a) for a, b in ends))


def _refuse_inference_mode() -> None:
    if torch.is_inference_mode_enabled():
        raise UserError(
            "adaptation needs gradients: make and call the adapter outside torch.inference_mode(); no_grad() will do"
        )


class Adapter:
    """Adapts a trained network to the images that it is called with, and predicts them.

    ::

        adapter = Adapter(network, "grata", learning_rate=1e-4)
        logits = adapter(images)

    The network itself is never changed. Each call adapts by the images first and predicts them afterwards, in this
    order, whatever the gradient mode of the caller and the mode of the network.

    Args:
        network: from images ``[N, C, H, W]`` to logits ``[N, classes, H, W]``: a tensor, the first of a tuple, or the
            key ``out`` of a dict. Any sizes that it takes. The images are moved to its device and precision; of a
            network in half precision a float32 copy is adapted, whatever ``torch.autocast`` says.
        method: name of a registered method, see ``tta_bench.list_methods()``.
        streams: ``one``: the images of all calls are one stream, in their order. ``each``: the ``n``-th image of every
            call belongs to the ``n``-th of independent streams; the first call says how many there are.
        activation: what the logits stand for: ``sigmoid``, a class on its own in each channel, or ``softmax``.
        features: for methods that need feature maps of the network beside its logits, ``bottleneck`` or ``head_input``
            (the input of the classifier) -> name of the module whose output it is. Those of the networks of
            torchvision and segmentation-models-pytorch are known.
        branches: for methods that adapt by a pretext task, its name -> the head that was trained with the network, a
            module from the bottleneck to what the task predicts.
        preprocess: what the network was trained with, a :class:`~tta_bench.ops.preprocessing.Preprocessing` or the name
            of one in ``conf/preprocessing`` (``min_max``, ``unit``, ``imagenet``, …); images are then given as grey
            levels, 0 to 255. None: they are given as the network takes them, in ``value_range``.
        value_range: lowest and highest value of images that are preprocessed already, numbers or one per channel.
            Methods that look at pixel values work in [0, 1]; the network is shown values of this range again.
        steps: updates per image, see ``conf/protocol``.
        episodic: whether the state starts afresh at every image.
        predict: whether an image is predicted ``after`` or ``before`` its update.
        seed: of the method's random draws.
        source_images: for methods of the setting ``tta+bank``, some that the network was trained on, as those it is
            called with, ``[N, C, H, W]``; what the method may see of them is kept.
        options: of the method, in place of those in its YAML file; also ``preset``.

    Raises:
        UserError: an unknown name or option, a network that cannot be adapted, or one of which the method needs more.

    Attributes:
        method: what drives the network; internal.
        diagnostics: of the last call, name -> one value per image; those of a method that takes batches are one per
            stream.
    """

    def __init__(
        self,
        network: nn.Module,
        method: str = "grata",
        *,
        streams: Literal["one", "each"] = "one",
        activation: Activation = "sigmoid",
        features: Mapping[str, str] | None = None,
        branches: Mapping[str, nn.Module] | None = None,
        preprocess: Preprocessing | str | None = None,
        value_range: tuple[float | Sequence[float], float | Sequence[float]] = (0.0, 1.0),
        steps: int = 1,
        episodic: bool = False,
        predict: Literal["after", "before"] = "after",
        seed: int = 0,
        source_images: Tensor | None = None,
        **options: Any,
    ) -> None:
        for key, value, valid in (
            ("streams", streams, ("one", "each")),
            ("activation", activation, ("sigmoid", "softmax")),
            ("predict", predict, ("after", "before")),
        ):
            if value not in valid:
                raise UserError(f"{key}={value!r}: {nearest(str(value), valid)}")
        for key, count, least in (("steps", steps, 1), ("seed", seed, 0)):
            if type(count) is not int or count < least:
                raise UserError(f"{key}={count!r}: give a whole number, at least {least}")
        _refuse_inference_mode()
        if options.get("preset") == TUNED:
            raise UserError(
                "preset='tuned' is of runs, whose source model and images decide which search it is: give the options "
                "of its outcome.yaml"
            )
        kind, chosen = METHODS.get(method), default_options(method, **options)
        needed = kind.branches(chosen)
        unused = [name for name in branches or {} if name not in needed]
        if unused:
            raise UserError(f"branches={{'{unused[0]}': …}}: {method} uses no such branch with these options")
        if isinstance(preprocess, str):
            preprocess = preprocessing_called(preprocess)
        if not isinstance(preprocess, Preprocessing | None):
            raise UserError(f"preprocess={preprocess!r}: give the name of one, or a Preprocessing")
        self._takes_grey_levels = preprocess is not None
        if not isinstance(value_range, Sequence) or len(value_range) != 2:
            raise UserError(f"value_range={value_range!r}: give two, the lowest and the highest value")
        expected = preprocess if preprocess is not None else preprocessing_to(*value_range)
        self._model = ForeignNetwork(
            network, activation=activation, preprocessing=expected, features=features, branches=branches
        )
        self._model.require(method, kind.card.features, needed)
        adaptable = AdaptableNetwork(self._model, needed, image_size=self._model.image_size)
        self.method: Method = kind(adaptable, chosen, Protocol(episodic, steps, predict))
        self.diagnostics: dict[str, list[float]] = {}
        self._name, self._each, self._seed = method, streams == "each", seed
        self._size = self._model.image_size, self._model.image_size
        self._seen: list[int] = []  # images of each stream
        self._keep(source_images)
        self.reset()

    def _keep(self, source_images: Tensor | None) -> None:
        """Make the bank of a method that may see one."""
        if (source_images is not None) != (self.method.card.setting == "tta+bank"):
            see = (
                "sees no source images: leave source_images= out"
                if source_images is not None
                else ("sees a bank of source images: give some that the network was trained on, source_images=")
            )
            raise UserError(f"{self._name} {see}")
        if source_images is not None:
            self._check(source_images)
            options = self.method.options
            bank = make_bank(self._prepared(source_images).cpu(), options.radius, options.bank)
            digest = hashlib.sha256(bank.amplitudes.numpy().tobytes()).hexdigest()
            self.method.network.model.bank = replace(bank, origin=digest)

    def __call__(self, images: Tensor) -> Tensor:
        """Adapt to images and predict them.

        With ``streams="one"`` they come one after another; a method whose card says ``takes_batches`` takes all.

        Args:
            images: ``[N, C, H, W]``, or one ``[C, H, W]``; left unchanged. With ``streams="each"`` at most as many as
                in the first call; fewer belong to the first streams.

        Returns:
            Logits ``[N, classes, H, W]``, or ``[classes, H, W]``, without gradients, on the network's device.

        Raises:
            UserError: called under ``torch.inference_mode``, images of another shape or out of range, or too many.
        """
        _refuse_inference_mode()
        if not isinstance(images, Tensor):
            raise UserError(f"images are a {type(images).__name__}: give a tensor [N, {self._model.in_channels}, H, W]")
        batch = images[None] if images.dim() == 3 else images
        self._check(batch)
        batch = self._prepared(batch)
        if self._each and not self._seen:
            self._begin(len(batch))
        if self._each and len(batch) > len(self._seen):
            raise UserError(
                f"{len(batch)} images for {len(self._seen)} streams, as many as the first call had: call reset() "
                "before a larger batch, or make it smaller"
            )
        self._size = batch.shape[2], batch.shape[3]
        pixels = batch.shape[2] * batch.shape[3]
        self.method.network.images_per_pass = placement(batch.device).images_per_pass(pixels)
        self.method.network.images_with_graph = KEPT_PIXELS // pixels
        if self._each:
            parts = [batch]
        elif self.method.card.takes_batches:
            parts = [batch[None]]
        else:
            parts = list(batch.split(1))
        with numerics(batch.device):
            results = [self._step(part) for part in parts]
        self.diagnostics = {
            name: [value for result in results for value in result.diagnostics[name]] for name in results[0].diagnostics
        }
        logits = torch.cat([result.logits.flatten(0, -4) for result in results])
        return logits[0] if images.dim() == 3 else logits

    def _step(self, images: Tensor) -> Any:
        """One step of the streams of ``[A, C, H, W]``, or of the one of ``[1, N, C, H, W]``."""
        # The same draws at the same place of every stream: streams side by side are as each on its own.
        keys = [ImageKey(self._seed, "", str(seen)) for seen in self._seen[: len(images)]]
        result = self.method.step(images, keys)
        for stream in range(len(images)):
            self._seen[stream] += images.shape[1] if images.dim() == 5 else 1
        return result

    def _check(self, images: Tensor) -> None:
        channels = self._model.in_channels
        if images.dim() != 4 or not len(images):
            raise UserError(f"images of shape {list(images.shape)}: give [N, {channels}, H, W] with N of at least 1")
        if images.shape[1] != channels:
            raise UserError(f"images have {images.shape[1]} channels, and the network takes {channels}")
        if not images.is_floating_point() and not self._takes_grey_levels:
            raise UserError(
                f"images are {images.dtype}, and a network takes preprocessed ones: give preprocess=NAME, that of its "
                "training, or preprocess them"
            )
        if self._takes_grey_levels and self._model.preprocessing.range == "unit":  # others take any scale
            low, high = (float(end) for end in images.aminmax())
            if low < 0 or high > 255 or (images.is_floating_point() and 0 < high <= 1):
                raise UserError(
                    f"images have values from {low:g} to {high:g}, and preprocess= takes grey levels, 0 to 255: give "
                    "these, or leave preprocess= out and preprocess them"
                )

    def _prepared(self, images: Tensor) -> Tensor:
        """Images in the network's place and precision, as the method sees them."""
        like = self.method.network.source_theta
        if images.is_inference():
            images = images.clone()  # autograd keeps no tensor that was made in inference mode
        prepare = self._model.preprocessing.unit_range if self._takes_grey_levels else self._from_range
        return prepare(images.detach().to(like).contiguous())

    def _from_range(self, images: Tensor) -> Tensor:
        """Images of ``value_range`` in [0, 1]."""
        border = self._model.preprocessing
        if border.mean is not None and border.std is not None:
            mean, std = (images.new_tensor(each)[:, None, None] for each in (border.mean, border.std))
            images = images * std + mean
        if self.method.card.needs_unit_range and bool(((images < -ROUNDING) | (images > 1 + ROUNDING)).any()):
            raise UserError(
                f"{self._name} assumes that images lie in a known range, and these go beyond value_range: give "
                "value_range=(lowest, highest) of your preprocessed images, or preprocess=NAME and grey levels"
            )
        return images

    def _begin(self, streams: int) -> None:
        self._seen = [0] * streams
        self.method.start(streams)

    def reset(self) -> None:
        """Forget all images: the state is that of a new adapter, the number of streams included."""
        self.method.backwards = self.method.skipped = 0
        self.diagnostics = {}
        self._seen = []
        if not self._each:
            self._begin(1)

    def state_dict(self) -> dict[str, Any]:
        """All that the next image depends on: tensors and plain values, a copy.

        ``torch.save`` writes it, and ``torch.load`` reads it with ``weights_only=True``.
        """
        state = dict(self.method.state_dict()) if self._seen else {}
        return copy.deepcopy({"made_by": self._maker(), "seen": self._seen, "state": state})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` to the same bits, also in another adapter of the same network.

        Raises:
            UserError: it is that of another method, of other options, or of another network.
        """
        parts = state_dict if isinstance(state_dict, Mapping) else {}
        maker, stored = self._maker(), parts.get("made_by")
        if not isinstance(stored, Mapping) or not {"seen", "state"} <= parts.keys():
            raise UserError("this is no state of an Adapter: give what state_dict() returned")
        for key, value in maker.items():
            if stored.get(key) != value:
                raise UserError(
                    f"the state is that of an Adapter with {key}={stored.get(key)}, and this one has {value}: make it "
                    "with the same arguments and network"
                )
        self.reset()
        if state_dict["seen"]:
            self._begin(len(state_dict["seen"]))
            self.method.load_state_dict(copy.deepcopy(state_dict["state"]))
        self._seen = list(state_dict["seen"])

    def _maker(self) -> dict[str, Any]:
        """What a state belongs to, as plain values."""
        return {
            "method": self._name,
            "options": asdict(self.method.options),
            "protocol": asdict(self.method.protocol),
            "streams": "each" if self._each else "one",
            "seed": self._seed,
            "activation": self._model.activation,
            "preprocessing": str(self._model.preprocessing),
            "network": self._network_hash,
            **({"bank": bank.origin[:16]} if (bank := self.method.network.bank) is not None else {}),
        }

    @cached_property
    def _network_hash(self) -> str:
        """Of the names and values of all weights, those of branches included."""
        digest = hashlib.sha256()
        for name, value in self._model.state_dict().items():
            digest.update(f"{name} {value.dtype} {[*value.shape]}".encode())
            digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def export(self, stream: int = 0) -> nn.Module:
        """A plain copy of the network, adapted as far as a stream is: it needs nothing of this package.

        Where the method normalises by the statistics of the image, so does the copy: it predicts as the method does at
        batch size 1, because its layers take the statistics of a whole batch.

        Args:
            stream: which of several, with ``streams="each"``.

        Returns:
            In evaluation mode, for images as the network itself takes them.

        Raises:
            UserError: a plain network does not predict as the method does, with the reason.
        """
        if not 0 <= stream < len(self._seen):
            raise UserError(f"there is no stream {stream}: {len(self._seen)} have begun")
        row, statistics = self.method.deployed(stream)
        height, width = self._size
        images = probe_images(max(height, width), self._model.in_channels)[:1, :, :height, :width].to(row)
        exported = plain_copy(self._model, self.method.network, row, statistics, images)
        assert isinstance(exported, ForeignNetwork)
        return exported.network

    def as_network(self, images: Tensor) -> Any:
        """As a call, with the logits in what the network returns: a tensor, a tuple of it, or a dict with ``out``."""
        return self._model.in_form(self(images))
