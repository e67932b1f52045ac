"""Recorded samples hold the predictions of both networks; damaged samples are refused."""

import json

import numpy as np
import pytest
import torch
from report_page import T, page_of
from typer.testing import CliRunner

import transpike as tp
from transpike.cli import app
from transpike.report import (
    Samples,
    join_samples,
    read_results,
    read_samples,
    record_samples,
)
from transpike.report.png import png


def test_samples_agree_with_evaluate_at_every_timestep(digits):
    snn, test, norm = digits
    parts = [record_samples(snn, x, target, T, mean=norm.mean, std=norm.std) for x, target in test]
    whole = join_samples(parts)
    result = tp.evaluate(snn, test, T)
    assert [float((one == whole.label).mean()) for one in whole.snn] == result.accuracy
    assert [float((one == whole.ann).mean()) for one in whole.snn] == result.agreement
    assert float((whole.ann == whole.label).mean()) == result.ann_accuracy


def test_samples_begin_with_the_first_output(digits):
    snn, test, norm = digits
    (x, target), *_ = test
    late = tp.convert(snn.network, [x], neuron=tp.Staggered(2))
    first, last = late.first_output, late.first_output + 3
    settings = {"mean": norm.mean, "std": norm.std}
    assert first > 1
    found = record_samples(late, x, target, last, **settings)
    assert found.timesteps == tuple(range(first, last + 1))
    longer = record_samples(late, x, target, 40, **settings)
    assert longer.timesteps == (4, 8, 16, 32, 40) and first in (3, 4)
    with pytest.raises(tp.ArgumentError, match=f"needed timesteps in {first}..{last}, got"):
        record_samples(late, x, target, last, recorded=[first - 1], **settings)


def test_pictures_are_the_images_that_flip(digits):
    snn, test, norm = digits
    x, target = (torch.cat(column) for column in zip(*test, strict=True))
    whole = record_samples(snn, x, target, T, mean=norm.mean, std=norm.std)
    parts = [record_samples(snn, a, b, T, mean=norm.mean, std=norm.std) for a, b in test]
    joined = join_samples(parts)
    differs = (whole.snn != whole.ann).any(axis=0)
    assert differs.any() and set(whole.index.tolist()) == set(np.flatnonzero(differs).tolist())
    assert joined.index.tolist() == whole.index.tolist()
    assert np.array_equal(joined.image, whole.image)
    pixels = x[whole.index, 0].double().numpy() * norm.std[0] + norm.mean[0]
    # A pixel of 127.5 is a tie, which the rounding of the normalized value decides.
    assert np.abs(whole.image - 255 * pixels).max() < 0.5 + 1e-3
    last = [max(t for t in range(T) if whole.snn[t, k] != whole.ann[k]) for k in whole.index]
    assert last == sorted(last, reverse=True)


def test_masks_are_those_of_the_simulation(masks, tmp_path):
    snn, x, target = masks
    samples = record_samples(snn, x, target, T, mean=[0.0], std=[1.0], recorded=[1, 4])
    run = tp.simulate(snn, x, T, record=tp.Record(output_at=[1, 4]))
    assert samples.kind == "segmentation" and samples.timesteps == (1, 4)
    assert np.array_equal(samples.snn, (run.output[:, :, 0] > 0).numpy())
    assert np.array_equal(samples.label, target[:, 0].numpy())
    assert np.array_equal(samples.image, np.rint(x[:, 0].double().numpy() * 255))
    samples.save(tmp_path)
    again = read_samples(tmp_path)
    for name in ("label", "ann", "snn", "image", "index"):
        assert np.array_equal(getattr(again, name), getattr(samples, name))
    assert again.classes == ("0", "1") and again.facts["max_count"] == 1


def test_scores_of_masks_are_those_of_a_slow_count(masks, tmp_path):
    snn, x, target = masks
    record_samples(snn, x, target, T, mean=[0.0], std=[1.0]).save(tmp_path)
    (one,) = page_of(tmp_path, tmp_path).content["masks"]
    output = tp.simulate(snn, x, T).output[T - 1, 1, 0]
    pairs = list(
        zip((output > 0).flatten().tolist(), (target[1] > 0).flatten().tolist(), strict=True)
    )
    right = sum(a and b for a, b in pairs)
    wrong = sum(a and not b for a, b in pairs)
    missed = sum(b and not a for a, b in pairs)
    found = one["images"][1]["scores"]["snn"][T - 1]
    assert (found["tp"], found["fp"], found["fn"]) == (right, wrong, missed)
    assert found["f1"] == pytest.approx(2 * right / (2 * right + wrong + missed))
    assert found["jaccard"] == pytest.approx(right / (right + wrong + missed))


@pytest.mark.parametrize(
    "pixels",
    [
        np.arange(35).reshape(5, 7).astype(np.uint8),
        np.arange(105).reshape(5, 7, 3).astype(np.uint8),
        np.arange(35).reshape(5, 7) % 3 == 0,
    ],
)
def test_png_holds_the_pixels(pixels, tmp_path):
    from PIL import Image

    (tmp_path / "x.png").write_bytes(png(pixels))
    with Image.open(tmp_path / "x.png") as image:
        assert np.array_equal(np.asarray(image), pixels)


def test_samples_refuse_what_does_not_fit(digits, masks):
    snn, test, norm = digits
    x, target = test[0]
    right = {"mean": norm.mean, "std": norm.std}
    with pytest.raises(tp.ArgumentError, match="normalized with"):
        record_samples(snn, x, target, T, mean=[3.0], std=[1.0])
    record_samples(snn, x, target, T, **right)  # The right normalization is the remedy.
    with pytest.raises(tp.ArgumentError, match="needed 1 values each"):
        record_samples(snn, x, target, T, mean=[0.0, 0.0], std=[1.0, 1.0])
    with pytest.raises(tp.DataError, match="needed targets"):
        record_samples(snn, x, target[:-1], T, **right)
    with pytest.raises(tp.DataError, match=r"needed class indices 0\.\.9"):
        record_samples(snn, x, target + 300, T, **right)
    with pytest.raises(tp.ArgumentError, match=r"timesteps in 1\.\.4"):
        record_samples(snn, x, target, T, recorded=[5], **right)
    with pytest.raises(tp.ArgumentError, match="needed 10 names"):
        record_samples(snn, x, target, T, classes=["a"], **right)
    one = record_samples(snn, x, target, T, **right)
    other = record_samples(snn, x, target, T, recorded=[1], **right)
    with pytest.raises(tp.ArgumentError, match="the same timesteps"):
        join_samples([one, other])
    with pytest.raises(tp.ArgumentError, match="at least one part"):
        join_samples([])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"timesteps": (2, 1)}, "ascending timesteps"),
        ({"ann": np.zeros(2, np.uint8)}, "needed predictions"),
        ({"label": np.full(3, 7, np.uint8)}, r"needed classes 0\.\.1"),
        ({"label": np.zeros(3)}, "needed whole numbers"),
        ({"index": np.zeros(2, np.int32)}, "one sample per picture"),
        ({"image": np.zeros((1, 2, 2))}, "of bytes"),
        ({"index": np.array([9])}, "pictures of samples"),
    ],
)
def test_damaged_samples_are_refused(change, reason, tmp_path):
    zeros = np.zeros(3, np.uint8)
    good = {
        "timesteps": (1, 2),
        "label": zeros,
        "ann": zeros,
        "snn": np.zeros((2, 3), np.uint8),
        "image": np.zeros((1, 2, 2), np.uint8),
        "index": np.array([0]),
        "classes": ("a", "b"),
    }
    Samples(**good).save(tmp_path)
    assert read_samples(tmp_path).classes == ("a", "b")
    with pytest.raises(tp.DataError, match=reason):
        Samples(**{**good, **change})


def test_samples_without_their_arrays_are_refused(masks, tmp_path):
    snn, x, target = masks
    samples = record_samples(snn, x, target, T, mean=[0.0], std=[1.0])
    samples.save(tmp_path)
    (arrays,) = tmp_path.glob("samples-*.npz")
    arrays.write_bytes(arrays.read_bytes() + b"x")
    with pytest.raises(tp.FileError, match="have another SHA-256.*Record them again"):
        read_results([tmp_path])
    arrays.unlink()
    with pytest.raises(tp.FileError, match="Record them again"):
        read_results([tmp_path])
    samples.save(tmp_path)  # The remedy is to record them again.
    assert len(read_results([tmp_path]).samples) == 1


def test_many_classes_are_put_together(tmp_path):
    n, classes = 300, 100
    generator = np.random.default_rng(0)
    label = generator.integers(0, classes, n).astype(np.uint8)
    snn = np.stack([generator.permutation(label), label])
    names = tuple(f"class {k}" for k in range(classes))
    empty = np.zeros((0, 1, 1), np.uint8)
    samples = Samples((1, 2), label, label, snn, empty, np.zeros(0, np.int32), names)
    samples.save(tmp_path)
    (one,) = page_of(tmp_path, tmp_path).content["labeled"]
    assert one["classes"][-1] == "all others" and len(one["classes"]) == 21
    assert len(one["label"]) == n and max(one["label"]) == 20
    assert one["differ"] == [int((snn[0] != label).sum()), 0]


def _run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_evaluate_records_samples_of_what_it_evaluates(tmp_path):
    options = ("--calibration-size", 32, "--batch-size", 16, "--timesteps", T, "--limit", 40)
    files = ("--json", tmp_path / "evaluate.json", "--samples", tmp_path)
    result = _run("evaluate", "digits_cnn", "--data", "digits", *options, *files)
    assert result.exit_code == 0, result.stderr
    content = json.loads((tmp_path / "evaluate.json").read_text())
    samples = read_samples(tmp_path)
    assert samples.kind == "classification" and len(samples) == 40
    assert samples.facts["model"] == "digits_cnn" and samples.classes[3] == "3"
    assert [float((one == samples.label).mean()) for one in samples.snn] == content["accuracy"]
    assert _run("report", tmp_path, "-o", tmp_path / "r.html").exit_code == 0


def test_evaluate_records_the_first_slices_of_volumes(tmp_path):
    from PIL import Image

    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for kind in ("images", "labels"):
            (tmp_path / part / kind).mkdir(parents=True)
        for k in range(6):
            image = generator.integers(0, 256, (32, 48)).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / part / "images" / f"{k}.png")
            Image.fromarray((image > 128) * np.uint8(255)).save(
                tmp_path / part / "labels" / f"{k}.png"
            )
    options = ("--calibration-size", 2, "--tile", 16, "--timesteps", T, "--data")
    out = tmp_path / "out"
    result = _run(
        "evaluate", "unet:2", *options, f"lucchi:{tmp_path}", "--limit", 5, "--samples", out
    )
    assert result.exit_code == 0, result.stderr
    samples = read_samples(out)
    assert samples.kind == "segmentation" and samples.label.shape == (4, 16, 16)
    assert np.array_equal(samples.label, samples.image > 128)
    assert samples.classes == ("background", "mitochondrion")


def test_samples_and_early_stopping_are_refused_together(tmp_path):
    options = ("--calibration-size", 32, "--timesteps", T, "--limit", 10)
    both = ("--samples", tmp_path / "s", "--early-stopping", "margin:0.9")
    result = _run("evaluate", "digits_cnn", "--data", "digits", *options, *both)
    assert result.exit_code == 2 and "Leave one of them out" in result.stderr
    assert (
        _run("evaluate", "digits_cnn", "--data", "digits", *options, *both[:2]).exit_code == 0
    )  # The remedy is to leave early stopping out.
