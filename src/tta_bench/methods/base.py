"""What a method is: plain torch that adapts to each unlabelled image before it is predicted.

:class:`Method` owns the order of reset, update and prediction; a callback or a loop of one's own drives it along a
stream. A method implements :meth:`Method.adapt` and, where needed, :meth:`Method.start`, :meth:`Method.before_stream`
and :meth:`Method.predict`, on images and its own state alone. All of them work on ``A`` streams at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tta_bench.errors import UserError
from tta_bench.methods.card import Card
from tta_bench.methods.optimizers import Optimizer, OptimizerName, make_optimizer
from tta_bench.methods.per_stream import PerStream
from tta_bench.methods.protocol import Protocol
from tta_bench.methods.space import Tuned
from tta_bench.methods.state import AdaptedParameters, State
from tta_bench.methods.step_result import StepResult, Told, told
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.normalisation import BatchStatistics, Statistics
from tta_bench.objectives.base import BoundNetwork
from tta_bench.objectives.entropy import check_form
from tta_bench.ops.draws import Draws, ImageKey
from tta_bench.registry import Registry
from tta_bench.runtime.numerics import stopwatch
from tta_bench.runtime.ranges import Decay, NonNegative, check_ranges

UNDER_WAY = 4
"""Steps whose skipped updates are not counted yet: a device is done with earlier ones."""

_EXTRA = "_extra_state"
"""Where torch puts what is no tensor."""

Diagnostics = dict[str, Tensor]
"""What a method reports of one update: name -> ``[A]`` values, columns of ``per_image.csv``."""


def later(before: Any) -> Any:
    """A field of options that came when there were finished cells already, which stay what they are.

    Args:
        before: the value that does what was done before there was the option. It is what configurations mean that
            were written then; the default, which may be another, stands in the YAML as that of any option.
    """
    return field(default=before, metadata={"later": True})


@dataclass(frozen=True)
class MethodOptions:
    """Hyper-parameters of a method; subclasses add fields. Every field is a key of the method's YAML, with its value.

    A number declares its :class:`~tta_bench.runtime.ranges.Range`; one without is finite, and whole numbers have 64
    bits.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    def __post_init__(self) -> None:
        check_ranges(self)

    def without_identity(self) -> set[str]:
        """The options that are no part of what identifies a cell: those that came :func:`later` and change nothing."""
        added = (each for each in fields(self) if "later" in each.metadata)
        return {each.name for each in added if getattr(self, each.name) == each.default}

    def without_effect(self) -> frozenset[str]:
        """The options that do nothing beside the others: whatever they are, a cell is that of their defaults."""
        return frozenset()


class Method(State, PerStream, ABC):
    """Base of every method.

    Args:
        network: the adaptable network; shared, never changed.
        options: hyper-parameters; default those of the method's YAML.
        protocol: reset rule, updates per image, order of update and prediction.

    Raises:
        UserError: the method cannot work on this network.
    """

    card: ClassVar[Card]
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    statistics: Statistics = BatchStatistics()
    transient = frozenset({"network", "options", "protocol", "statistics", "_skipped", "_under_way"})
    streams = 0
    """How many there have been since :meth:`start`."""

    def __init__(
        self, network: AdaptableNetwork, options: MethodOptions | None = None, protocol: Protocol | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.options = options or _default_options(type(self))
        self.protocol = protocol or Protocol()
        self.kind = type(self).__name__  # saved, so that no method takes over what another kept
        self.backwards = 0
        self.skipped = 0  # which is a property
        if self.card.needs_batch_norm and not network.batch_norm_layers:
            raise UserError(
                f"{type(self).__name__} works on the statistics of BatchNorm layers, and this network has none "
                f"({network.describe()}): choose another method, or another network"
            )
        if hasattr(self.options, "entropy_form"):
            check_form(self.options.entropy_form, network.activation)

    # What a method implements

    @classmethod
    def branches(cls, options: Any) -> tuple[str, ...]:
        """Auxiliary branches that the source model must have; their affine parameters are adapted too."""
        return cls.card.branches

    @classmethod
    def is_stochastic(cls, options: Any) -> bool:
        """Whether another seed gives other numbers with these options; if not, one seed stands for all."""
        return cls.card.stochastic

    @classmethod
    def components(cls, options: Any) -> tuple[type[Method], ...]:
        """Further methods that it runs with these options; their code is part of what makes its numbers."""
        return ()

    def start(self, streams: int) -> None:
        """Create the state of ``streams`` streams afresh: attributes, see :class:`~tta_bench.methods.state.State`.

        A method with state of its own begins with this one.
        """
        self.streams = streams

    def before_stream(self, images: Sequence[Dataset[Tensor]]) -> None:
        """See all unlabelled images of the streams that have just started; default: no look ahead.

        Args:
            images: of each stream its images ``[3, H, W]`` in [0, 1], in order, each read when it is asked for.
        """

    @abstractmethod
    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """Update the state of the first ``A`` streams with one unlabelled image each.

        Args:
            images: ``[A, 3, H, W]`` in [0, 1]; must not be written to. A method whose card says ``takes_batches``
                also gets ``[A, batch, 3, H, W]``, and predicts as many.
            draws: the random numbers of this update.
        """

    def predict(self, images: Tensor) -> Tensor:
        """Logits ``[A, classes, H, W]`` of ``[A, 3, H, W]`` images with the present state; of batches as many."""
        logits = self.network(images.flatten(0, -4), self.theta(len(images)), self.statistics)
        return logits.unflatten(0, images.shape[:-3])

    @property
    def source_theta(self) -> Tensor:
        """What is adapted, as it is in the source model: ``[scalars]``; default: the affine parameters.

        A method that adapts convolutions too returns ``self.network.source_parameters``.
        """
        return self.network.source_theta

    def theta(self, streams: int) -> Tensor:
        """The adapted parameters of the first streams, ``[A, scalars]``; default: the source model's."""
        return self.source_theta.expand(streams, -1)

    def deployed(self, stream: int) -> tuple[Tensor, Statistics]:
        """What a plain network needs to predict as one stream does now: parameters ``[scalars]`` and statistics.

        Raises:
            UserError: it is not in the parameters and statistics, or there is nothing that lasts.
        """
        if self.protocol.episodic:
            raise UserError(
                f"{type(self).__name__} starts afresh at every image, so that there is no adapted network to export: "
                "call the adapter on each image"
            )
        return self.theta(stream + 1)[stream], self.statistics

    def theta_before_update(self, streams: int) -> Tensor:
        """:meth:`theta` as the next image finds it."""
        return self.source_theta.expand(streams, -1) if self.protocol.episodic else self.theta(streams)

    def gradient_as_followed(self, loss: Callable[[Tensor], Tensor], images: Tensor, theta: Tensor) -> Tensor | None:
        """The gradient of a loss of the prediction, in the coordinates of the gradient that an update follows.

        Args:
            loss: ``logits [A, classes, H, W] -> losses [A]``.
            images: ``[A, 3, H, W]``.
            theta: ``[A, scalars]``, the state before the update.

        Returns:
            ``[A, scalars]``, comparable with :meth:`followed_gradient`; None, without a pass through the network, for
            a method that follows no gradient of the network's parameters (the default).
        """
        return None

    def followed_gradient(self, streams: int) -> Tensor:
        """The gradient that the last update followed, ``[A, scalars]``; NaN in the rows that were skipped.

        Asked only of a method that implements :meth:`gradient_as_followed`.
        """
        raise NotImplementedError

    def gradient(
        self, objective: Callable[[BoundNetwork], Tensor], theta: Tensor, statistics: Statistics | None = None
    ) -> tuple[Tensor, Tensor]:
        """Losses ``[A]`` and their gradients ``[A, scalars]`` at ``theta``: each row that of its own stream.

        One backward pass serves all streams, because no row's loss depends on another row.
        """
        return self.gradient_of(
            lambda rows: objective(BoundNetwork(self.network, rows, statistics or self.statistics)), theta
        )

    def gradient_of(self, losses_at: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`gradient` for a state of any kind: ``losses_at`` maps ``[A, scalars]`` to losses ``[A]``."""
        with torch.enable_grad():
            rows = rows.detach().requires_grad_()
            losses = losses_at(rows)
            (gradient,) = torch.autograd.grad(losses, rows, torch.ones_like(losses))
        self.backwards += 1
        return losses.detach(), gradient

    # What the base owns

    @torch.no_grad()
    def step(self, images: Tensor, keys: Sequence[ImageKey]) -> StepResult:
        """Adapt to one image of each active stream and predict it.

        Args:
            images: ``[A, 3, H, W]``, or batches ``[A, batch, 3, H, W]``; streams in the order of :meth:`start`, longest
                first.
            keys: which image each is, or the first of its batch.
        """
        if torch.is_inference_mode_enabled():
            raise RuntimeError("adaptation needs gradients: create the trainer with inference_mode=False")
        ended = stopwatch(images.device)
        if self.protocol.episodic:
            self.start(len(images))
        logits = self.predict(images) if self.protocol.predict == "before" else None
        diagnostics: Diagnostics = {}
        skipped: list[Tensor] = []
        for update in range(self.protocol.steps):
            diagnostics = self.adapt(images, Draws(keys, update))
            if "skipped" in diagnostics:
                skipped.append(diagnostics["skipped"])
        if logits is None:
            logits = self.predict(images)
        result = StepResult(logits, told(diagnostics, skipped, ended(), images.shape[:-3].numel()))
        if skipped:
            self._under_way.append(result.fetch)
            self._count_skipped(UNDER_WAY)
        return result

    @property
    def skipped(self) -> int:
        """How many updates were none, because a loss or a gradient was not finite; waits for those under way."""
        self._count_skipped(0)
        return self._skipped

    @skipped.setter
    def skipped(self, count: int) -> None:
        """Count from here; those under way are no part of it."""
        self._skipped = count
        self._under_way: deque[Callable[[], Told]] = deque()

    def _count_skipped(self, under_way: int) -> None:
        """Until only so many steps are not counted."""
        while len(self._under_way) > under_way:
            self._skipped += sum(self._under_way.popleft()().skipped)

    def get_extra_state(self) -> dict[str, Any]:
        """See the base class; the count by its public name, so that steps under way are no part of one that is set."""
        return {**super().get_extra_state(), "skipped": self.skipped}

    def __getstate__(self) -> Any:
        """What a copy begins with."""
        self._count_skipped(0)
        return super().__getstate__()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """All that the next image depends on, so that a killed run goes on to the same numbers, as torch saves it.

        With a reset at every image these are the counters alone. The tensors are those of the method, not copies.
        """
        if self.protocol.episodic:
            return {_EXTRA: {"kind": self.kind, "backwards": self.backwards, "skipped": self.skipped}}
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Go on from :meth:`state_dict`, with as many streams as it is of, whether they have started or not.

        Raises:
            UserError: it was not saved by this method, in this version and on such a network.
        """
        refusal = f"this is no state of {self.kind} on such a network in this version: start afresh"
        if state_dict.get(_EXTRA, {}).get("kind") != self.kind:
            raise UserError(refusal)
        if self.protocol.episodic:
            return self.set_extra_state(state_dict[_EXTRA])
        streams = state_dict[_EXTRA].get("streams", self.streams)
        if streams != self.streams:
            self.start(streams)
        try:
            keys = super().load_state_dict(state_dict, *args, **kwargs)
        except RuntimeError as error:  # torch's list of modules that are missing or too much
            raise UserError(f"{refusal} ({' '.join(str(error).split())})") from None
        if self.theta(self.streams).shape[1:] != self.source_theta.shape:
            raise UserError(refusal)
        return keys

    def describe(self) -> str:
        """What is adapted and how, for the start of a run."""
        from tta_bench.methods.options import usual_values  # which needs the registry of methods

        text = f"adapts {self.card.adapts}; statistics of the {self.card.statistics}; {self.network.describe()}"
        if self.card.needs_gradients:
            affine = self.network.source_theta.numel()
            text += f"; {affine:,} affine scalars"
            others = self.source_theta.numel() - affine
            text += f", {others:,} other parameters" if others else ""
        name, given = METHODS.name_of(type(self)), asdict(self.options)
        usual = {} if name is None else usual_values(name, self.options.without_effect())
        idle = [f"{key}={given[key]}" for key in sorted(usual) if given[key] != usual[key]]
        text += f"; without effect beside the other options: {', '.join(idle)}" if idle else ""
        return text


METHODS: Registry[type[Method]] = Registry("method", "tta_bench.methods")
list_methods = METHODS.names
"""The names of all methods, sorted, those of plug-ins included; ``list_methods("*grad")`` gives those that match."""
register_method = METHODS.register
"""Class decorator: make a :class:`Method` available by name, ``@register_method("tent")``; ValueError if taken."""


@dataclass(frozen=True, kw_only=True)
class GradientOptions(MethodOptions):
    """Options of methods that take gradient steps.

    Attributes:
        learning_rate: of the optimiser, not negative.
        optimizer: ``adam`` or ``sgd``.
        momentum: of SGD.
        nesterov: whether the momentum of SGD is Nesterov's.
    """

    learning_rate: Annotated[NonNegative, Tuned(1e-5, 1e-1, log=True)]
    optimizer: Annotated[OptimizerName, Tuned()]
    momentum: Decay
    nesterov: bool = later(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise ValueError("nesterov=true needs optimizer=sgd and a momentum above 0")

    def without_effect(self) -> frozenset[str]:
        """The momentum of another optimiser than SGD."""
        return super().without_effect() | ({"momentum"} if self.optimizer != "sgd" else set())


class GradientMethod(Method):
    """Base of methods that update the adapted parameters by gradient steps, statistics taken from each image."""

    Options: ClassVar[type[MethodOptions]] = GradientOptions

    def start(self, streams: int) -> None:
        """Every row at the source model's parameters, with a fresh optimiser."""
        super().start(streams)
        self.state = AdaptedParameters(self.source_theta, streams, self.make_optimizer())

    def make_optimizer(self, **others: Any) -> Optimizer:
        """The optimiser of the options; ``others`` are further arguments of a method that has options for them."""
        options = self.options
        return make_optimizer(options.optimizer, options.momentum, nesterov=options.nesterov, **others)

    def theta(self, streams: int) -> Tensor:
        """The adapted parameters of the first streams, ``[A, scalars]``."""
        return self.state.theta[:streams]

    def gradient_as_followed(self, loss: Callable[[Tensor], Tensor], images: Tensor, theta: Tensor) -> Tensor | None:
        """See the base class: by the adapted parameters, under the statistics of an update.

        A method overrides this if its updates follow the gradient in other coordinates, or in a part of them.
        """
        _, gradient = self.gradient(lambda network: loss(network(images)), theta)
        return gradient

    def followed_gradient(self, streams: int) -> Tensor:
        """See the base class."""
        return self.state.followed_gradient(streams)


def _default_options(kind: type[Method]) -> MethodOptions:
    """Those of the method's YAML; a class that is not registered has the defaults of its options class."""
    from tta_bench.methods.options import default_options  # which needs the registry of methods

    name = METHODS.name_of(kind)
    return kind.Options() if name is None else default_options(name)
