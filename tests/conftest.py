"""Settings shared by all tests."""

import os

import hypothesis
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "laws",
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("laws")


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start every test from the same random state."""
    torch.manual_seed(0)
