"""What a worker of a launcher does around a run: it takes a place on the machine, and leaves word of a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from tta_bench.launch.engine import Engine, core_places, share_allocation

if TYPE_CHECKING:
    from tta_bench.schema import RunConfig


def begin() -> Engine:
    """Make a process ready for a job of Hydra, before PyTorch is imported.

    Returns:
        The launcher that has started it.

    Raises:
        OSError: the folder in which the command was typed is not there on this node.
    """
    from hydra.core.hydra_config import HydraConfig

    runtime = HydraConfig.get().runtime
    engine = Engine(runtime.choices["hydra/launcher"])
    if engine.name == "ray":  # the nodes of a cluster run where they were started, and paths may be relative
        os.chdir(runtime.cwd)
    if engine.name == "submitit_slurm":
        share_allocation(os.environ)
    return engine


@contextmanager
def own_devices(config: RunConfig) -> Iterator[None]:
    """In the process of the command, which runs one cell at a time: the first GPU of ``launch.devices``.

    Raises:
        UserError: a GPU that is not there.
    """
    devices = _devices(config)
    with _using(devices[0]) if devices else nullcontext():
        yield


@contextmanager
def place(config: RunConfig, engine: Engine) -> Iterator[None]:
    """In a worker: hold a place of a GPU, or of the cores where nobody else shares those out.

    Raises:
        UserError: a GPU that is not there.
    """
    from tta_bench.runtime.places import claimed, device_places

    devices = _devices(config)
    if devices:
        places = device_places(devices, config.launch.cells_per_device)
        names = [f"{_identity(device)}-{number}" for device, number in places]
        with claimed(names) as position, _using(places[position][0]):
            yield
    else:
        with claimed(core_places(os.environ)) if engine.shares_cores else nullcontext():
            yield


@contextmanager
def told(config: RunConfig) -> Iterator[None]:
    """Leave a failure, or a signal, in the folders of all cells that come to nothing by it.

    A run whose source model cannot be trained does not get as far as its cells, and who has started a sweep sees of
    its workers what is in the results folder.
    """
    from tta_bench.runtime.signals import stop_signal

    try:
        yield
    except BaseException as error:
        if config.tune:
            raise
        with suppress(OSError):  # a place that takes no results takes no failure either
            _leave(config, error, stop_signal(error))
        raise


def _leave(config: RunConfig, error: BaseException, stopped: Any) -> None:
    from tta_bench.cell import Cell
    from tta_bench.records.run_log import run_log

    for cell in Cell.all_of(config):
        folder = cell.folder()
        is_known = folder.status() == "failed" and folder.error() == f"{type(error).__name__}: {error}"
        if folder.status() in ("done", "interrupted") or is_known or (folder.path.is_dir() and folder.is_held()):
            continue
        with folder.locked():
            if stopped is not None:
                folder.interrupt(stopped.name)
            else:
                with suppress(type(error)), run_log(folder.path / "run.log"):
                    raise error
                folder.fail(error)


def train(config: RunConfig) -> None:
    """Prepare the source domain and train the source model, or find that it was trained before.

    Raises:
        UserError: bad input.
    """
    from tta_bench.data.held_out import trained_on
    from tta_bench.data.prepare import prepared
    from tta_bench.runtime.files import translate_os_errors
    from tta_bench.runtime.memory import keep_freed_memory
    from tta_bench.source.train import source_model

    keep_freed_memory()
    domains = prepared(config, (config.source,))
    with translate_os_errors(config.results_root):
        source_model(config, trained_on(config, domains[config.source]), config.results_root)


def to_train(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """One run of each distinct source model that an unfinished run of a sweep needs, in their order."""
    from tta_bench.cell import Cell

    first: dict[str, RunConfig] = {}
    for run, config in ((each, of_source) for each in configs for of_source in each.of_each_source()):
        if config.checkpoint is not None:
            continue
        content = config.model_dump_json(include={"source", "data", "model", "results_root"})
        key = f"{content} {bool(config.stages)} {config.training.content(config.model.branches)}"
        if key not in first and any(config.force or cell.finished() is None for cell in Cell.all_of(run)):
            first[key] = config
    return list(first.values())


def _devices(config: RunConfig) -> list[int]:
    """The GPUs to use; none where the CPU is asked for, or there is no GPU."""
    import torch

    from tta_bench.runtime.places import chosen_devices

    if config.device == "cpu":
        return []
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return chosen_devices(visible, None if config.launch.devices == "auto" else config.launch.devices)


def _identity(device: int) -> str:
    """The same for a GPU whatever number it has in a process."""
    import torch

    return str(torch.cuda.get_device_properties(device).uuid)


@contextmanager
def _using(device: int) -> Iterator[None]:
    """Have ``cuda`` mean this GPU."""
    import torch

    with torch.cuda.device(device):
        yield
