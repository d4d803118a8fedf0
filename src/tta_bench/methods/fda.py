"""Feather-light Fourier adaptation: test images in the style of source images (Zakazov et al., DART 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS, Card, Diagnostics, Method, MethodOptions, Protocol, register_method
from tta_bench.methods.space import Tuned
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.bank import Bank, BankKind
from tta_bench.models.normalisation import Statistics
from tta_bench.ops.draws import Draws
from tta_bench.ops.geometry import stacked, unstacked
from tta_bench.ops.probabilities import logit_of_mixture
from tta_bench.ops.similarity import looks, similarities, thumbnails
from tta_bench.ops.spectrum import Post, amplitudes, restyled
from tta_bench.runtime.ranges import Range
from tta_bench.runtime.transfer import sent

_SOFT = 1e-3
"""Added to amplitudes before their logarithm: those below a thousandth of the range of pixels count little."""


def resolved(then: Any) -> Any:
    """A method, named alone or with some of its options, with all of its options; anything else as it is.

    Raises:
        UserError: an unknown method or option, or a method that needs a bank itself.
    """
    from tta_bench.methods.options import TUNED, default_options  # which needs the registry of methods

    given = {"name": then} if isinstance(then, str) else then
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        return then
    changes = {str(key): value for key, value in given.items() if key != "name"}
    kind = METHODS.get(given["name"])
    if kind.card.setting != "tta":
        raise UserError(f"method.then={given['name']} needs a bank itself: name a method that sees the image alone")
    if changes.get("preset") == TUNED:
        raise UserError("method.then has no preset=tuned: give the options of the search's outcome.yaml")
    return {"name": given["name"], **asdict(default_options(given["name"], **changes))}


@dataclass(frozen=True)
class FDAOptions(MethodOptions):
    """Options of Feather-light Fourier adaptation.

    Attributes:
        radius: of the window of low frequencies, cycles per image; 0 for none.
        donors: how many source images lend their amplitudes, at most as many as the bank has.
        choice: those most ``similar`` to the image, or others at ``random`` for every image. Similar are, by a bank of
            images, those of the largest SR-SIM; by amplitudes alone those of the nearest logarithms of amplitudes.
        bank: what is kept of the source images.
        post: see :data:`~tta_bench.ops.spectrum.Post`.
        then: the method that sees the restyled image: its name, or a mapping of it and of some of its options.
    """

    radius: Annotated[float, Range(0, 31)]
    donors: Annotated[int, Range(1, 2**10), Tuned(1, 15)]
    choice: Literal["similar", "random"]
    bank: BankKind
    post: Post
    then: Annotated[dict[str, Any], BeforeValidator(resolved)]


@register_method("fda")
class FDA(Method):
    """Low-frequency amplitudes of several source images in turn; the mean of the predictions.

    A method may follow: it adapts to the image in the style of the first donor, and predicts it in that of each.

    Args:
        network: as in the base class, with a bank.
        options: as in the base class.
        protocol: as in the base class; that of the method that follows.
    """

    card = Card(
        adapts="low-frequency amplitudes of the image",
        statistics="source domain",
        needs_source_statistics=True,
        forwards=7,
        backwards=0,
        predictions=7,
        paper="Zakazov et al., DART 2022",
        setting="tta+bank",
        licence="none stated",
        needs_unit_range=True,
    )
    Options = FDAOptions
    transient = frozenset({"_bank", "_latest"})

    def __init__(
        self, network: AdaptableNetwork, options: FDAOptions | None = None, protocol: Protocol | None = None
    ) -> None:
        super().__init__(network, options, protocol)
        self.inner = _kind(self.options)(network, _inner_options(self.options), protocol)
        self.protocol = self.inner.protocol  # a method may start afresh at every image by its nature
        self.statistics = self.inner.statistics

    @classmethod
    def branches(cls, options: FDAOptions) -> tuple[str, ...]:
        """Those of the method that follows."""
        return _kind(options).branches(_inner_options(options))

    @classmethod
    def is_stochastic(cls, options: FDAOptions) -> bool:
        """Whether the donors are drawn, or the method that follows draws."""
        return options.choice == "random" or _kind(options).is_stochastic(_inner_options(options))

    @classmethod
    def components(cls, options: FDAOptions) -> tuple[type[Method], ...]:
        """The method that follows."""
        return (_kind(options),)

    def start(self, streams: int) -> None:
        """The method that follows starts, and the first images of the bank are the donors until some are drawn."""
        super().start(streams)
        self.inner.start(streams)
        self._bank = _Shelf(self._given_bank(), self.network.source_theta, self.options)
        self._latest: tuple[Tensor, list[Tensor]] | None = None
        if self.options.choice == "random":
            first = torch.arange(self._bank.donors, device=self.network.source_theta.device)
            self.drawn = first.repeat(streams, 1)

    def _given_bank(self) -> Bank:
        bank = self.network.bank
        if bank is None:
            raise UserError(
                "fda needs a bank of source images beside the source model: a run makes it from the images of source=; "
                "an Adapter is given them as source_images="
            )
        if bank.radius < self.options.radius or (bank.thumbnails is None and self.options.bank == "images"):
            kept = "amplitudes alone" if bank.thumbnails is None else "images"
            raise UserError(
                f"the bank has {kept} and a radius of {bank.radius:g}, too little for method.bank={self.options.bank} "
                f"and method.radius={self.options.radius:g}: make it for these"
            )
        return bank

    @property
    def source_theta(self) -> Tensor:
        """As of the method that follows."""
        return self.inner.source_theta

    def theta(self, streams: int) -> Tensor:
        """As of the method that follows."""
        return self.inner.theta(streams)

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """Draw the donors where they are drawn; the method that follows adapts to the image in the first's style."""
        if self.options.choice == "random":
            chosen = [torch.randperm(len(self._bank), generator=each) for each in draws.generators("donors")]
            self.drawn[: len(images)] = sent(torch.stack(chosen)[:, : self._bank.donors], self.drawn.device)
            self._latest = None
        before = self.inner.backwards
        diagnostics = self.inner.adapt(self._in_style(images)[0], draws)
        self.backwards += self.inner.backwards - before
        return diagnostics

    def predict(self, images: Tensor) -> Tensor:
        """Logits of the mean probabilities over the donors."""
        logits = [self.inner.predict(styled) for styled in self._in_style(images)]
        return logit_of_mixture(logits, [1 / len(logits)] * len(logits), self.network.activation)

    def gradient_as_followed(self, loss: Callable[[Tensor], Tensor], images: Tensor, theta: Tensor) -> Tensor | None:
        """As of the method that follows, on the image in the style of the first donor."""
        return self.inner.gradient_as_followed(loss, self._in_style(images)[0], theta)

    def followed_gradient(self, streams: int) -> Tensor:
        """As of the method that follows."""
        return self.inner.followed_gradient(streams)

    def deployed(self, stream: int) -> tuple[Tensor, Statistics]:
        """See the base class: there is none."""
        raise UserError(
            "fda predicts every image in the styles of source images, so that no plain network predicts alike: keep "
            "the adapter, and its state with state_dict()"
        )

    def describe(self) -> str:
        """What is exchanged, from what, and which method follows."""
        lent, kept = f"of {self.options.donors} {self.options.choice} source images", self.options.bank
        return f"adapts {self.card.adapts}, those {lent} (bank: {kept}); then {self.inner.describe()}"

    def _in_style(self, images: Tensor) -> list[Tensor]:
        """The images ``[A, C, H, W]`` in the style of each donor; every tile has donors of its own."""
        if self._latest is None or self._latest[0] is not images:
            tiles = self.network.tiles(images)
            parts = unstacked(images, tiles)
            if self.options.choice == "random":
                donors = self.drawn[: len(images)].repeat_interleave(tiles, dim=0)
            else:
                donors = self._bank.nearest(parts)
            styled = restyled(parts[:, None], self._bank.amplitudes[donors], self.options.radius, self.options.post)
            self._latest = images, [stacked(each, tiles) for each in styled.unbind(1)]
        return self._latest[1]


class _Shelf:
    """A bank where it is used: on the device of the network and of its precision.

    Args:
        bank: of the source model.
        like: a tensor of that place and type.
        options: of the method.
    """

    def __init__(self, bank: Bank, like: Tensor, options: FDAOptions) -> None:
        self.amplitudes = bank.within(options.radius).to(like)
        self.donors = min(options.donors, len(bank))
        self._radius = options.radius
        grey = bank.thumbnails if options.bank == "images" else None
        self._looks = None if grey is None else looks(grey.to(like.device), like.dtype)

    def __len__(self) -> int:
        return len(self.amplitudes)

    def nearest(self, images: Tensor) -> Tensor:
        """Places of the most similar source images ``[A, donors]``, the best first."""
        if self._looks is None:
            own = amplitudes(images, self._radius)
            near = -torch.cdist(_logarithms(own), _logarithms(self.amplitudes), compute_mode=_EXACT)
        else:
            near = similarities(looks(thumbnails(images), images.dtype), self._looks)
        return near.topk(self.donors, dim=1).indices


_EXACT = "donot_use_mm_for_euclid_dist"


def _logarithms(values: Tensor) -> Tensor:
    return (values + _SOFT).log().flatten(1)


def _kind(options: FDAOptions) -> type[Method]:
    """The method that follows."""
    return METHODS.get(options.then["name"])


def _inner_options(options: FDAOptions) -> Any:
    from tta_bench.methods.options import method_options

    return method_options(options.then)
