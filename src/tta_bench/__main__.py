"""``python -m tta_bench +method=grata source=D``: one cell, or with ``-m`` or ``experiment=`` a sweep of cells."""

from __future__ import annotations

import logging
import os
import sys

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# Threads that spin while they wait cost a shared machine more than they win; read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

USER_ERROR = 2
"""Exit code of bad input."""

HYDRA_FLAGS = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}
"""Flags with which Hydra only shows something."""


def main() -> None:
    """Entry point; exits with 2 and sentences instead of a traceback if the input is bad."""
    import hydra
    from omegaconf import DictConfig, OmegaConf
    from rich.console import Console

    from tta_bench.cell import run
    from tta_bench.config import validate
    from tta_bench.errors import UserError, print_faults
    from tta_bench.launch.command_line import check, quote_lists, register_experiments, run_section
    from tta_bench.launch.paths import CONFIG_DIR

    console = Console()
    failures: list[str] = []
    multirun = bool({"-m", "--multirun"} & set(sys.argv[1:]))
    sys.argv[1:] = quote_lists(sys.argv[1:], multirun)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stdout)
    logging.getLogger("tta_bench").setLevel(logging.INFO)

    @hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")
    def job(composed: DictConfig) -> None:
        container = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(container, dict)
        try:
            run(validate(run_section(container)), console)
        except UserError as error:
            failures.extend(error.faults)
            print_faults(error)
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")
            logging.getLogger("tta_bench").exception("this cell failed; the traceback is also in its status.json")

    register_experiments()
    if not HYDRA_FLAGS & set(sys.argv[1:]):
        try:
            check([argument for argument in sys.argv[1:] if not argument.startswith("-")])
        except UserError as error:
            print_faults(error)
            sys.exit(USER_ERROR)
    job()
    if failures:
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()
