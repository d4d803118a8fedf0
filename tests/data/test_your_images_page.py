"""The example of the page on one's own images runs as it is printed."""

import re
import shlex
from pathlib import Path

from tta_bench.cli import main

PAGE = Path(__file__).parents[2] / "docs/your_images.md"


def test_the_example_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})
    (command,) = re.findall(r"```\n(tta-bench data check .*?)\n```", text)
    main([*shlex.split(command)[1:], "data.image_size=64"])
    assert capsys.readouterr().out.count("96x96") == 2
