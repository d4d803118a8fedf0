"""The laws of a device that is not there, in a process of their own: autograd must know the device from its start."""

import os
from pathlib import Path

import pytest

import forked

LAWS = Path(__file__).with_name("simulated_device_laws.py")


def laws(*options):
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they need none, and loading takes seconds
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", LAWS, *options)
    done = forked.run(*command, env=environment, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout


def test_methods_objectives_and_statistics_keep_to_a_device():
    laws()


@pytest.mark.slow
def test_the_network_of_the_paper_keeps_to_its_budgets():
    laws("-m", "slow")
