"""What an image costs from file to mask: ``tta-bench predict`` beside a cell, in turns; see ``README.md`` beside this.

Both adapt the same network (random weights) to the same photographs. A cell has its images prepared before it begins,
once per data set; ``predict`` decodes them, and writes masks of their own size. Every measurement runs in a process of
its own: ``--task`` is how this script calls itself.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ALL = ("--compare", "--overlay", "--probabilities")
ROWS = {
    "cell": "cell",
    "predict --no-change": "cell",
    "cell and its reference": "cell and its reference",
    "predict": "cell and its reference",
    f"predict {' '.join(ALL)}": "cell and its reference",
}
"""Row -> what it is compared with. The reference is the unadapted prediction, which ``predict`` makes too."""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=512, help="side of the network's input, pixels")
    parser.add_argument("--stored", type=int, default=768, help="side of the photographs, pixels")
    parser.add_argument("--images", type=int, default=12, help="of a measurement, after a first one")
    parser.add_argument("--repeat", type=int, default=3, help="turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--method", default="tent")
    parser.add_argument("--task", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.task:
        print(seconds_per_image(parsed, parsed.task, parsed.folder))
        return
    os.environ["OMP_NUM_THREADS"] = str(parsed.threads)
    with tempfile.TemporaryDirectory() as name:
        make_images(parsed, Path(name))
        rows: dict[str, list[float]] = {row: [] for row in ROWS}
        for _ in range(parsed.repeat):
            for row, values in rows.items():
                words = [*sys.argv, "--task", row, "--folder", name]
                done = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True)
                values.append(float(done.stdout.splitlines()[-1]))
        print(table(parsed, rows))


def make_images(parsed: argparse.Namespace, root: Path) -> None:
    """Photographs with masks in the layout of ``data=folder``, and a checkpoint."""
    import torch
    from PIL import Image

    from tta_bench.data.synthetic.render import render
    from tta_bench.models.build import build_model
    from tta_bench.models.checkpoint import save_checkpoint
    from tta_bench.ops.preprocessing import PAPER
    from tta_bench.schema import ModelConfig

    for kind in ("image", "mask"):
        (root / f"A/{kind}").mkdir(parents=True)
    for k in range(parsed.images + 1):
        image, mask = render("A", k, size=parsed.stored)
        Image.fromarray(image).save(root / f"A/image/{k:03}.jpg", quality=95)
        Image.fromarray(mask).save(root / f"A/mask/{k:03}.png")
    torch.manual_seed(0)
    config = ModelConfig(name="resunet34", encoder="resnet34")
    save_checkpoint(
        root / "model.ckpt",
        build_model(config, 2, pretrained=False).state_dict(),
        architecture=config.model_dump(mode="json", exclude={"preprocessing"}),
        preprocessing=PAPER,
        classes={"disc": (1, 2), "cup": (2,)},
        image_size=parsed.size,
        domain="D",
    )


def seconds_per_image(parsed: argparse.Namespace, row: str, root: Path) -> float:
    """Wall time from the end of the first image on, per further image, until the last file is written.

    A cell and its reference run one after the other; the time between them does not count.
    """
    import tta_bench.cell
    from tta_bench.cli import main as program
    from tta_bench.launch.check import check
    from tta_bench.launch.grammar import quote_lists
    from tta_bench.methods.base import METHODS, Method, StepResult

    ends: dict[str, list[float]] = {}
    names = {METHODS.get(name): name for name in METHODS.names()}
    step = Method.step

    def timed(self: Method, *arguments: object) -> StepResult:
        result: StepResult = step(self, *arguments)  # type: ignore[arg-type]
        ends.setdefault(names[type(self)], []).append(time.perf_counter())
        return result

    Method.step = timed  # type: ignore[method-assign]
    words = [f"+method={parsed.method}", f"checkpoint={root}/model.ckpt", "device=cpu"]
    if row.startswith("predict"):
        flags = row.split()[1:]
        with tempfile.TemporaryDirectory() as out:
            program(["predict", f"{root}/A/image", f"{out}/out", *words, *flags])
        first = max(each[0] for each in ends.values())
        return (time.perf_counter() - first) / parsed.images
    words += ["data=folder", f"data.root={root}", f"data.image_size={parsed.size}", "source=D", "target=A"]
    words += ["data.classes={disc: [1,2], cup: [2]}", "model=resunet34", f"results_root={root}/results", "force=true"]
    (config,) = check(quote_lists(words, multirun=False), multirun=False)
    list(tta_bench.cell.run(config))
    counted = [parsed.method] if row == "cell" else [parsed.method, "no_adapt"]
    return sum((ends[name][-1] - ends[name][0]) / parsed.images for name in counted)


def table(parsed: argparse.Namespace, rows: dict[str, list[float]]) -> str:
    """Markdown, with ratios within each turn."""
    import torch

    lines = [
        f"`{parsed.method}`, ResUNet-34, {parsed.size} px from JPEG files of {parsed.stored} px, "
        f"{platform.machine()}, {parsed.threads} threads, torch {torch.__version__}",
        "",
        "| | ms per image | time / that of | |",
        "| --- | --- | --- | --- |",
    ]
    for row, values in rows.items():
        ratio = statistics.median(mine / other for mine, other in zip(values, rows[ROWS[row]], strict=True))
        lines.append(f"| {row} | {1000 * statistics.median(values):.0f} | {ROWS[row]} | {ratio:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
