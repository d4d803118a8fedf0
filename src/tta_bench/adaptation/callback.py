"""The one Lightning callback that drives any method, in the trainer and on the module of anybody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.data import Dataset

from tta_bench.adapter import Adapter
from tta_bench.errors import UserError, nearest
from tta_bench.methods.base import Method
from tta_bench.methods.step_result import StepResult
from tta_bench.ops.draws import ImageKey


class TTACallback(pl.Callback):
    """Puts the adapted network into the place of a module's own, for the duration of a test, predict or validate loop.

    Where the module's step calls its network with images, the method adapts to them and predicts them: the step sees
    adapted logits in the form in which the network returns them, and the method sees nothing but the images. The state
    starts afresh with the loop and with each further dataloader. The trainer needs ``inference_mode=False`` and one
    device. ::

        tta = TTACallback("tent", network="net")
        pl.Trainer(callbacks=[tta], inference_mode=False, devices=1).test(module, loader)

    Args:
        method: name of a method, for an :class:`~tta_bench.adapter.Adapter` of the module's network; or a method that
            has a network already.
        network: dotted name of the network in the module.
        streams: as for the adapter; or how many streams a given method has, side by side: image ``s`` of a batch
            belongs to stream ``s``.
        ahead: of each of them all its images, for a method that sees them first.
        options: of the adapter that is made for a name.

    Attributes:
        adapter: of the present or last loop, where a name was given.
        result: of the last batch, where a method was given: logits, diagnostics and seconds.
    """

    def __init__(
        self,
        method: Method | str,
        network: str = "network",
        *,
        streams: int | Literal["one", "each"] = "one",
        ahead: Sequence[Dataset[Tensor]] | None = None,
        **options: Any,
    ) -> None:
        self.method = method
        self.network = network
        self.streams = streams
        self.ahead = ahead
        self.options = options
        self.adapter: Adapter | None = None
        self.result: StepResult | None = None
        self._original: nn.Module | None = None
        self._calls = 0

    def _place(self, module: nn.Module) -> tuple[nn.Module, str]:
        """The submodule that has the network, and its name there."""
        names = [name for name, _ in module.named_modules(remove_duplicate=False) if name]
        if self.network not in names:
            raise UserError(
                f"TTACallback(network={self.network!r}): {type(module).__name__} has no such module; "
                f"{nearest(self.network, names)}"
            )
        parent, _, leaf = self.network.rpartition(".")
        return module.get_submodule(parent), leaf

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the adapted network into its place, with a fresh state.

        Raises:
            UserError: no such network, inference mode, or several devices.
        """
        if trainer.state.fn == TrainerFn.FITTING:  # its validation is of the network that is trained
            return
        if torch.is_inference_mode_enabled():
            raise UserError("adaptation needs gradients: create the trainer with inference_mode=False")
        if trainer.world_size > 1:
            raise UserError(
                f"adaptation follows the order of the images, and {trainer.world_size} devices would share them: "
                "create the trainer with devices=1"
            )
        parent, leaf = self._place(pl_module)
        original = parent.get_submodule(leaf)
        if isinstance(self.method, str):
            self.adapter = Adapter(original, self.method, streams=self.streams, **self.options)  # type: ignore[arg-type]
        self._original = original
        self._fresh()
        setattr(parent, leaf, _Replacement(self._step if self.adapter is None else self.adapter.as_network))

    def _fresh(self) -> None:
        """No image has been seen."""
        self._calls = 0
        if self.adapter is not None:
            self.adapter.reset()
        elif isinstance(self.method, Method):
            self.method.start(self._count)
            if self.ahead is not None:
                self.method.before_stream(self.ahead)

    @property
    def _count(self) -> int:
        return self.streams if isinstance(self.streams, int) else 1

    def _step(self, images: Tensor, keys: Sequence[ImageKey] | None = None) -> Tensor:
        """Logits of a given method; keys are by number, with seed 0, if there are none."""
        assert isinstance(self.method, Method)
        if len(images) > (count := self._count):
            raise UserError(
                f"a batch has {len(images)} images and TTACallback {count} stream{'s' * (count != 1)}: give the "
                f"dataloader batch_size={count}, because each image of a batch belongs to a stream of its own"
            )
        keys = keys or [ImageKey(0, "", f"{self._calls}.{row}") for row in range(len(images))]
        self._calls += 1
        self.result = self.method.step(images, keys)
        return self.result.logits

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Each further dataloader has streams of its own."""
        if self._original is not None and batch_idx == 0 and dataloader_idx > 0:
            self._fresh()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the module's own network back."""
        if self._original is not None:
            parent, leaf = self._place(pl_module)
            setattr(parent, leaf, self._original)
            self._original = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self.on_test_end(trainer, pl_module)

    on_validation_start = on_predict_start = on_test_start
    on_validation_batch_start = on_predict_batch_start = on_test_batch_start
    on_validation_end = on_predict_end = on_test_end


class _Replacement(nn.Module):
    """What stands in the place of the network."""

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *args: Any, **options: Any) -> Any:
        """Adapt and predict."""
        return self.call(*args, **options)
