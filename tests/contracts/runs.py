"""Methods along streams, for the laws of every method, and what came out."""

from dataclasses import dataclass, field

import pytest
import torch
from settings import options_of

from tta_bench.methods.base import METHODS, Method, Protocol
from tta_bench.ops.draws import ImageKey

NAMES = METHODS.names()
GRADIENT_NAMES = [name for name in NAMES if METHODS.get(name).card.needs_gradients]
LENGTHS = {"B": 5, "C": 4, "D": 2}

every_method = pytest.mark.parametrize("name", NAMES)
gradient_methods = pytest.mark.parametrize("name", GRADIENT_NAMES)


def branches_of(name):
    """The branches that a method needs with its canonical options."""
    return METHODS.get(name).branches(options_of(name))


def make(name, network, protocol=None, **overrides) -> Method:
    """A method with its canonical options."""
    options = options_of(name, **overrides)
    return METHODS.get(name)(network, options, protocol or Protocol())


@dataclass
class Run:
    """What came out of a run: per stream and place."""

    logits: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)
    diagnostics: dict[tuple[str, int], dict] = field(default_factory=dict)


def run(method, streams, seed=0, after_step=lambda k: None) -> Run:
    """Run along streams side by side, longest first."""
    result = Run()
    method.start(len(streams))
    for k in range(max(map(len, streams.values()))):
        active = [domain for domain, images in streams.items() if k < len(images)]
        batch = torch.stack([streams[domain][k] for domain in active])
        step = method.step(batch, keys_of(active, k, seed))
        assert step.logits.shape == (len(active), 2, 64, 64)
        for row, domain in enumerate(active):
            result.logits[domain, k] = step.logits[row]
            result.diagnostics[domain, k] = {key: values[row] for key, values in step.diagnostics.items()}
        after_step(k)
    return result


def keys_of(domains, k, seed=0):
    return [ImageKey(seed, domain, f"image{k}") for domain in domains]


def assert_equal(first: Run, second: Run, atol=0.0):
    assert first.logits.keys() == second.logits.keys()
    for place, logits in first.logits.items():
        torch.testing.assert_close(second.logits[place], logits, rtol=0, atol=atol, msg=lambda m, p=place: f"{p}: {m}")


def largest_difference(first: Run, second: Run) -> float:
    return max((second.logits[place] - logits).abs().max().item() for place, logits in first.logits.items())


def one(streams, domain="B"):
    return {domain: streams[domain]}
