"""``python -m tta_bench.cli``: the program without its installed script."""

from tta_bench.cli import main

main()
