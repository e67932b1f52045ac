"""Small networks, and the files that the commands would write for them."""

import pytest
import torch
from report_page import T, write
from torch import nn

import transpike as tp
from transpike.data import open_digits
from transpike.report import join_samples, record_samples
from transpike.zoo.models import build_model


@pytest.fixture(scope="module")
def digits():
    data = open_digits()
    snn = tp.convert(build_model("digits_cnn"), data.train.subset(32, 0).batches(16))
    return snn, list(data.test.subset(20, 0).batches(10)), data.normalization


@pytest.fixture(scope="module")
def masks():
    """Return a small dense network, three images and their masks."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    x = torch.rand(3, 1, 12, 16)
    snn = tp.convert(model, [x])
    return snn, x, (x > 0.5).float()


@pytest.fixture(scope="module")
def folder(digits, tmp_path_factory):
    """Write the files that the commands would write for one network; return their folder."""
    snn, test, norm = digits
    root = tmp_path_factory.mktemp("results")
    around = {
        "model": "digits_cnn",
        "data": "digits",
        "calibration": {"data": "digits", "split": "train", "n": 32, "seed": 0},
        "command": "transpike evaluate digits_cnn",
        "versions": {"transpike": tp.__version__},
    }
    images = [x for x, _ in test]
    results = {
        "evaluate": tp.evaluate(snn, test, T).to_dict(),
        "diagnose": tp.diagnose(snn, images, T).to_dict(),
        "cost": tp.measure_cost(snn, images, T).to_dict(),
        "compare": tp.compare(
            snn.network, images, test, dict(list(tp.methods(T).items())[:2])
        ).to_dict(),
    }
    for name, content in results.items():
        write(root / f"{name}.json", {**content, **around})
    parts = [record_samples(snn, x, target, T, mean=norm.mean, std=norm.std) for x, target in test]
    join_samples(parts).save(root)
    return root
