"""``tta-bench``: what there is, whether data and checkpoints are sound; every refusal is a sentence and exit code 2."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tta_bench
from made_tables import finish
from tta_bench.cli import main, subcommands
from tta_bench.launch.catalogue import catalogue
from tta_bench.launch.experiments import plan
from tta_bench.methods.base import METHODS
from tta_bench.models.checkpoint import save_checkpoint, to_official
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.models.networks.unet import UNet
from tta_bench.objectives.base import OBJECTIVES
from tta_bench.ops.preprocessing import PAPER

WIDTHS = (16, 16, 8, 8, 8)


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def refuse(capsys, *arguments):
    """The sentences of a refused command."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


@pytest.fixture
def images(tmp_path):
    """Two small domains in the layout of ``data=folder``."""
    for name in ("north", "south"):
        for kind in ("image", "mask"):
            (tmp_path / "images" / name / kind).mkdir(parents=True)
        for index in range(3):
            draw = np.random.default_rng([len(name), index])
            picture = draw.integers(0, 255, (70, 90, 3), np.uint8)
            Image.fromarray(picture).save(tmp_path / f"images/{name}/image/{index}.png")
            mask = np.zeros((70, 90), np.uint8)
            mask[20:40, 30:50] = 1
            Image.fromarray(mask).save(tmp_path / f"images/{name}/mask/{index}.png")
    return tmp_path / "images"


def test_the_version_is_printed_and_nothing_else_done(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"tta_bench {tta_bench.__version__}\n")


# list


def test_the_list_of_methods_fits_80_columns_and_breaks_no_name(capsys):
    main(["list", "methods"])
    lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    first_words = {line.split()[0] for line in lines if line[:1].strip()}
    assert set(METHODS.names()) <= first_words
    assert len(lines) <= 4 + 3 * len(METHODS.names()), "at most three lines each"
    grata = next(line for line in lines if line.startswith("grata "))
    assert "affine parameters" in grata
    assert "9 + 2" in grata


def test_the_list_of_objectives_says_in_words_what_each_is(capsys):
    main(["list", "objectives"])
    text = capsys.readouterr().out
    assert all(re.search(rf"^{name} +\S", text, re.MULTILINE) for name in OBJECTIVES.names())
    assert "`" not in text


def test_the_lists_of_data_and_experiments_say_what_each_is(capsys):
    main(["list", "data"])
    text = capsys.readouterr().out
    assert all(re.search(rf"^{name} +\S", text, re.MULTILINE) for name in ("folder", "fundus", "synthetic"))
    main(["list", "experiments"])
    text = capsys.readouterr().out
    assert re.search(r"^first_look +No adaptation.* 4 \+ 0 +source: all", text, re.MULTILINE)


def test_a_broken_plug_in_is_listed_with_its_error(capsys, monkeypatch):
    monkeypatch.setitem(catalogue("methods").broken, "theirs", "their.module: ImportError: no [module] of that name")
    main(["list", "methods"])
    text = " ".join(capsys.readouterr().out.split())
    assert "theirs" in text
    assert "[module]" in text


def test_a_list_is_narrowed_by_a_pattern(capsys):
    main(["list", "methods", "grat*"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:1].strip()]
    assert names == ["method", "─" * len(names[1]), "grata"]
    main(["list", "experiments", "table?"])
    assert len(re.findall(r"^table\d ", capsys.readouterr().out, re.MULTILINE)) == 5
    assert "no name matches 'grta*': did you mean 'grata'?" in refuse(capsys, "list", "methods", "grta*")


QUICK = [
    ["--help"],
    *(["list", what] for what in ("methods", "objectives", "data", "experiments")),
    *([*name.split("_"), "--help"] for name in subcommands()),
]


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_what_runs_nothing_answers_at_once_and_imports_no_torch(words):
    code = (
        "import resource, sys\n"
        "from tta_bench.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as left:\n    assert not left.code\n"
        "slow = {'torch', 'hydra', 'pydantic', 'numpy', 'pytorch_lightning'} & sys.modules.keys()\n"
        "assert not slow, slow\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(used.ru_utime + used.ru_stime)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 0.4


HEAVY = (
    *("pytorch_lightning", "torchvision", "torch._dynamo", "timm", "segmentation_models_pytorch"),
    *("scipy", "matplotlib", "albumentations", "cv2", "wandb", "tta_bench.adaptation.runner"),
)
"""What computes, trains or draws; torch itself comes with the methods, whose options are part of what a cell is."""


@pytest.mark.parametrize("command", ["plan", "status"])
def test_what_looks_at_cells_alone_imports_nothing_that_computes_them(command, tmp_path):
    code = (
        "import sys\nfrom tta_bench.cli import main\nmain(sys.argv[1:])\n"
        f"print(*sorted(sys.modules.keys() & {set(HEAVY)!r}))"
    )
    words = [command, "first_look", f"results_root={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "first_look: 20 cells" in done.stdout
    assert done.stdout.splitlines()[-1] == ""


def test_every_subcommand_is_a_file_with_its_arguments_and_its_work():
    assert {"list", "plan", "status", "report", "data_check", "checkpoint_import"} <= set(subcommands())
    for name in subcommands():
        module = importlib.import_module(f"tta_bench.cli.{name}")
        assert module.__doc__.splitlines()[0].endswith("."), name
        assert callable(module.add_arguments), name
        assert callable(module.run), name


@pytest.mark.parametrize("words", [[], ["list"], ["list", "method"], ["data"], ["checkpoint", "verify"], ["nonsense"]])
def test_an_incomplete_command_shows_its_usage(capsys, words):
    assert "usage: tta-bench" in refuse(capsys, *words)


@pytest.mark.parametrize("words", [["--help"], ["list", "--help"], ["data", "check", "--help"]])
def test_help_is_shown(capsys, words):
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    assert "usage: tta-bench" in capsys.readouterr().out


# data


def test_data_check_sums_up_every_domain(capsys, images):
    main(["data", "check", "data=folder", f"data.root={images}", "data.image_size=64"])
    text = capsys.readouterr().out
    assert re.search(r"north .* 3 .* 90x70 ", text)
    assert re.search(r"south .* 3 .* 90x70 ", text)
    main(["data", "check", "data=folder", f"data.root={images}", "data.image_size=64", "--domains", "south"])
    assert "north" not in capsys.readouterr().out


def test_data_check_reports_all_faults_of_all_domains(capsys, images):
    (images / "north/mask/0.png").unlink()
    (images / "south/image/1.png").write_bytes(b"")
    error = refuse(capsys, "data", "check", "data=folder", f"data.root={images}", "data.image_size=64")
    assert error.count("error: ") == 2
    assert "0.png has no mask" in error
    assert "1.png is empty" in error


def test_data_cache_fills_the_cache_of_the_results(capsys, images, tmp_path):
    main(["data", "cache", "data=folder", f"data.root={images}", "data.image_size=64", "results_root=kept"])
    assert len(list((tmp_path / "kept/data").glob("*/index.json"))) == 2
    assert "north" in capsys.readouterr().out


def test_keys_beside_a_folder_that_is_asked_about_are_refused(capsys, tmp_path):
    error = refuse(capsys, "data", "check", str(tmp_path), "data.limit=3")
    assert "'data.limit=3' is of a recipe or a data set" in error
    assert f"data check data=folder data.root={tmp_path} checks a data set" in error


def test_data_preview_draws_the_asked_for_domains(capsys, images, tmp_path):
    words = ["data=folder", f"data.root={images}", "data.image_size=64", "--domains", "north,south"]
    main(["data", "preview", *words, "--per-domain", "2", "--out", "gallery.png"])
    assert capsys.readouterr().out == "wrote gallery.png\n"
    with Image.open(tmp_path / "gallery.png") as picture:
        assert min(picture.size) > 64


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data=foldr"], "error: unknown data=foldr: did you mean 'folder'?"),
        (["data.limt=3"], "error: unknown key 'data.limt': did you mean 'data.limit'?"),
        (["data=folder"], "error: data=folder needs the folder of the images: add data.root=DIR"),
        (["data.root=/tmp"], "error: data.root is not for data=synthetic: leave it out, or use data=folder"),
        (
            ["data=folder", "data.seed=3"],
            "error: data.seed is not for data=folder: leave it out, or use data=synthetic",
        ),
        (["data=folder", "data=fundus"], "error: data= is given 2 times: give it once"),
        (["data=folder", "data.root=/none"], "error: data.root=/none does not exist: give the folder of the images"),
        (["--domains", "A,Q"], "error: unknown domain 'Q' of data=synthetic: choose one of: A, B, C, D, E"),
        (["--domains", ","], "error: --domains is empty: name domains"),
        (["nonsense"], "error: cannot read 'nonsense'"),
    ],
)
@pytest.mark.parametrize("action", ["check", "preview"])
def test_bad_input_of_the_data_commands_is_a_sentence(capsys, action, words, sentence):
    assert sentence in refuse(capsys, "data", action, "data.limit=1", "data.image_size=64", *words)


@pytest.mark.parametrize("number", ["0", "-1", "some"])
def test_a_preview_of_no_image_is_refused(capsys, number):
    error = refuse(capsys, "data", "preview", "data.limit=1", f"--per-domain={number}")
    assert f"argument --per-domain: '{number}' is no number of images: give 1 or more" in error


# checkpoint


@pytest.fixture
def own(tmp_path):
    """A checkpoint of this project."""
    path = tmp_path / "model.ckpt"
    save_checkpoint(
        path,
        UNet("resnet18", 2, decoder_channels=WIDTHS).state_dict(),
        architecture={
            "name": "unet",
            "encoder": "resnet18",
            "encoder_weights": None,
            "decoder_channels": list(WIDTHS),
            "branches": [],
        },
        preprocessing=PAPER,
        classes={"disc": (1, 2), "cup": (2,)},
        image_size=64,
        domain="D",
        fingerprint="abc",
        training={"name": "quick", "epochs": 3},
        dice_in_domain_per_class={"disc": 90.0, "cup": 80.0},
    )
    return path


@pytest.fixture
def official(tmp_path):
    """A state dict as the paper's authors save it."""
    model = ResUNet(2, branches=("reconstruction", "denoising", "super_resolution", "rotation"))
    state = {to_official(key): value for key, value in model.state_dict().items()}
    path = tmp_path / "last-Res_Unet.pth"
    torch.save(state | {"res.fc.weight": torch.zeros(1000, 512), "res.fc.bias": torch.zeros(1000)}, path)
    return path


def test_verify_says_what_a_checkpoint_of_this_project_is(capsys, own):
    main(["checkpoint", "verify", str(own)])
    text = capsys.readouterr().out
    assert "85.00 % (disc 90.00, cup 80.00)" in text
    assert "30 layers, 9,824 affine scalars" in text


def test_the_authors_checkpoint_is_verified_imported_and_verified_again(capsys, official, tmp_path):
    main(["checkpoint", "verify", str(official)])
    assert "official ResUNet-34 state dict" in capsys.readouterr().out
    main(["checkpoint", "import", str(official), "A.ckpt", "--domain", "A"])
    assert capsys.readouterr().out == "wrote A.ckpt\n"
    main(["checkpoint", "verify", "A.ckpt"])
    assert re.search(r"domain: +A\n", capsys.readouterr().out)
    before = (tmp_path / "A.ckpt").read_bytes()
    assert "A.ckpt exists" in refuse(capsys, "checkpoint", "import", str(official), "A.ckpt", "--domain", "A")
    assert (tmp_path / "A.ckpt").read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", b"text", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_checkpoint_is_refused(capsys, content):
    if content is not None:
        Path("given.ckpt").write_bytes(content)
    error = refuse(capsys, "checkpoint", "verify", "given.ckpt")
    assert error.startswith("error: checkpoint given.ckpt ")
    assert error.count("\n") == 1


def test_a_checkpoint_of_this_project_needs_no_import(capsys, own):
    error = refuse(capsys, "checkpoint", "import", str(own), "new.ckpt", "--domain", "D")
    assert "is a checkpoint of tta_bench already" in error
    assert not Path("new.ckpt").exists()


def test_the_installed_program_answers():
    program = Path(sys.executable).parent / "tta-bench"
    command = [program] if program.exists() else [sys.executable, "-m", "tta_bench.cli"]
    done = subprocess.run([*command, "checkpoint", "verify", "none.ckpt"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == "error: checkpoint none.ckpt does not exist: check the path\n"


# plan, status, report

SMALL = ("data.image_size=64", "data.limit=3", "source=A", "target=[C,D]", "results_root=kept")


@pytest.fixture
def started():
    """The table ``first_look``: no_adapt and tent are finished, bn_only failed, grata is not begun."""
    planned = plan("first_look", SMALL).cells
    for one in planned:
        if one.row in ("no_adapt", "tent"):
            finish(one.cell, lambda target, index, gain=2.0 * (one.row == "tent"): 60 + gain + index)
        if one.row == "bn_only":
            one.cell.folder().start({})
            one.cell.folder().fail(MemoryError("no [memory] left"))
    return {one.row: one.cell for one in planned}


def test_plan_lists_every_cell_with_its_status_and_says_that_some_time_is_unknown(capsys, started):
    main(["plan", "first_look", *SMALL])
    text = capsys.readouterr().out
    assert max(map(len, text.split("\n"))) <= 80
    for row, status in (("no_adapt", "done"), ("bn_only", "failed"), ("tent", "done"), ("grata", "missing")):
        assert re.search(rf"^{started[row].folder().hash} +{row} +A +0 +0 +0 +{status}", text, re.MULTILINE)
    assert "2 cells remain: time unknown, no cell of their rows is finished" in " ".join(text.split())


def test_plan_estimates_the_time_from_finished_cells_of_the_same_row(capsys, started):
    """A finished cell took 6 images of half a second; the two others of its row will take as long."""
    main(["plan", "first_look", *SMALL, "training.seed=0,1,2"])
    text = " ".join(capsys.readouterr().out.split())
    assert "10 cells remain: about 12 s one after the other and the unknown time of 6 cells" in text


def test_status_counts_per_row_and_says_why_a_cell_failed(capsys, started):
    main(["status", "first_look", *SMALL])
    text = capsys.readouterr().out
    assert re.search(r"^row +done +stale +running +interrupted +killed +failed +missing", text, re.MULTILINE)
    for row, counts in (
        ("no_adapt", "1 0 0 0 0 0 0"),
        ("bn_only", "0 0 0 0 0 1 0"),
        ("grata", "0 0 0 0 0 0 1"),
        ("all", "2 0 0 0 0 1 1"),
    ):
        assert re.search(rf"^{row} +{' +'.join(counts.split())} *$", text, re.MULTILINE)
    log = started["bn_only"].folder().path / "run.log"
    assert f"failed: bn_only, source A, seed 0: MemoryError: no [memory] left ({log})" in text


def test_report_writes_an_unfinished_table_in_every_format(capsys, started):
    main(["report", "first_look", *SMALL])
    text = capsys.readouterr().out
    folder = Path("kept/reports/first_look")
    files = ["table.csv", "table.tex", "index.html", "targets.csv"]
    assert {each.name for each in folder.iterdir()} == {"table.md", *files, "figures"}
    assert f"wrote {folder}/table.md, with {', '.join(files)} and figures/ beside it" in text
    assert {path.name for path in (folder / "figures").iterdir()} >= {"dice_of_every_image.svg"}
    assert max(map(len, text.partition("wrote")[0].split("\n"))) <= 80
    assert re.search(r"^tent +63.00 +\+2.00 +0.031 *$", text, re.MULTILINE), "of 6 equal gains, 2 / 2^6"
    assert (
        "2 of 4 cells have no results yet: bn_only (1 failed); grata (1 missing)." in (folder / "table.md").read_text()
    )
    assert "MemoryError" in (folder / "index.html").read_text()


def test_report_compares_with_the_asked_for_row_in_the_asked_for_folder(capsys, started):
    main(["report", "first_look", *SMALL, "--reference", "tent", "--out", "elsewhere"])
    assert "minus tent" in Path("elsewhere/table.md").read_text()
    assert re.search(r"^no_adapt +61.00 +-2.00 ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["report", "first_look", *SMALL, "--out", "/proc/x"], "error: cannot write to /proc/x: there can be no such"),
        (["report", "first_look", *SMALL, "--panels", "Q"], "error: source=Q is not in table first_look:"),
        (["report", "first_look", *SMALL, "--image", "A"], "'A' names no image: write TARGET/NAME"),
        (["status", "first_lok"], "error: unknown table 'first_lok': did you mean 'first_look'?"),
        (["plan", "first_look", "data.limt=3"], "error: unknown key 'data.limt': did you mean 'data.limit'?"),
        (
            ["report", "first_look", *SMALL, "--reference", "tnt"],
            "error: there is no row 'tnt' to compare",
        ),
        (["report"], "what is to be reported? Give a TABLE, CELL…, --last or --where"),
    ],
)
def test_bad_input_of_the_table_commands_is_a_sentence(capsys, words, sentence):
    assert sentence in refuse(capsys, *words)
