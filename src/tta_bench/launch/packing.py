"""Which runs of a sweep in one process have their cells computed in shared batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tta_bench.adaptation.sharing import MOST_CELLS, shared_by
from tta_bench.cell import Cell
from tta_bench.schema import RunConfig


def companions(configs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """Of each run those after it whose cells its own may share a batch with; none of a run that is another's.

    Args:
        configs: in the order in which they run. One whose cells are finished is nobody's.
    """
    beside: list[list[RunConfig]] = [[] for _ in configs]
    room: dict[str, tuple[int, int]] = {}  # what they have in common -> the latest first run, and its cells to come
    every = [shared_by(config) for config in configs]
    several = {common for common, count in Counter(every).items() if count > 1}
    for number, (config, common) in enumerate(zip(configs, every, strict=True)):
        if common is None or common not in several:
            continue
        cells = sum(cell.finished() is None for cell in Cell.all_of(config))
        if not cells:
            continue
        first, left = room.get(common, (number, 0))
        if cells > left:
            room[common] = number, MOST_CELLS - cells
        else:
            beside[first].append(config)
            room[common] = first, left - cells
    return beside
