import pytest
from PIL import Image
from predicted import N, finished

from tta_bench.cli import main
from tta_bench.data.synthetic.render import render
from tta_bench.methods.base import METHODS, Method


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two domains in the layout of ``data=folder`` at 64 px, and a finished cell of GraTa from D to A."""
    root = tmp_path_factory.mktemp("world")
    for name, count in (("D", 6), ("A", N)):
        for kind in ("image", "mask"):
            (root / "data" / name / kind).mkdir(parents=True)
        for k in range(count):
            image, mask = render(name, k, size=64)
            Image.fromarray(image).save(root / f"data/{name}/image/{name}{k}.png")
            Image.fromarray(mask).save(root / f"data/{name}/mask/{name}{k}.png")
    classes = ("data.classes={disc: [1,2], cup: [2]}", "training.epochs=12", "training.min_steps=0")
    config, checkpoint = finished(root, root / "results", "+method=grata", *classes)
    return {"config": config, "images": root / "data/A/image", "data": root / "data", "checkpoint": checkpoint}


@pytest.fixture
def predict(world, tmp_path, capsys, monkeypatch):
    """The subcommand in this process: a function from words to exit code and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def typed(images, out, *words, method="grata"):
        code = 0
        try:
            main(["predict", str(images), str(out), f"checkpoint={world['checkpoint']}", f"+method={method}", *words])
        except SystemExit as left:
            code = left.code
        captured = capsys.readouterr()
        typed.out = captured.out
        return code, captured.err

    return typed


@pytest.fixture
def stepped(monkeypatch):
    """Names of the images that are adapted to, in order."""
    seen, step = [], Method.step

    def spy(self, images, keys):
        if type(self) is not METHODS.get("no_adapt"):
            seen.extend(key.image for key in keys)
        return step(self, images, keys)

    monkeypatch.setattr(Method, "step", spy)
    return seen
