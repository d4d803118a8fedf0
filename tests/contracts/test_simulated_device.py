"""The laws of a device that is not there, in a process of their own: autograd must know the device from its start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LAWS = Path(__file__).with_name("simulated_device_laws.py")


def laws(*options):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(LAWS), *options]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they need none, and loading takes seconds
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout


def test_methods_objectives_and_statistics_keep_to_a_device():
    laws()


@pytest.mark.slow
def test_the_network_of_the_paper_keeps_to_its_budgets():
    laws("-m", "slow")
