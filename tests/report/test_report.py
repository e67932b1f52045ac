"""The report: what it says is what the files hold, escaped, and it refuses foreign files."""

import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import transpike as tp
from transpike.cli import app
from transpike.data import open_digits
from transpike.report import (
    Samples,
    join_samples,
    read_results,
    read_samples,
    record_samples,
    text,
    write_report,
)
from transpike.report.png import png
from transpike.report.text import curve_table
from transpike.zoo.models import build_model

T = 4


class Page(HTMLParser):
    """Tags with their attributes, the visible text, and the page's data."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.data, self._inside = [], "", "", None
        self.feed(text)
        self.content = json.loads(self.data)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._inside = attributes.get("id") if tag == "script" else tag
        if tag == "script":
            self._inside = attributes.get("id", "script")

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "report-data":
            self.data += data
        elif self._inside not in ("script", "style"):
            self.text += data

    def chart(self, name):
        (found,) = [chart for chart in self.content["charts"] if chart["name"] == name]
        return found


@pytest.fixture(scope="module")
def digits():
    data = open_digits()
    snn = tp.convert(build_model("digits_cnn"), data.train.subset(32, 0).batches(16))
    return snn, list(data.test.subset(20, 0).batches(10)), data.normalization


@pytest.fixture(scope="module")
def masks():
    """A dense network of one convolution, with three images and masks."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    x = torch.rand(3, 1, 12, 16)
    snn = tp.convert(model, [x])
    return snn, x, (x > 0.5).float()


@pytest.fixture(scope="module")
def folder(digits, tmp_path_factory):
    """What the commands would write, of one network."""
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
        _write(root / f"{name}.json", {**content, **around})
    parts = [record_samples(snn, x, target, T, mean=norm.mean, std=norm.std) for x, target in test]
    join_samples(parts).save(root)
    return root


def _write(file, content):
    file.write_text(json.dumps(content, default=str))
    return file


def _page(tmp_path, *paths):
    file = write_report(read_results(paths), tmp_path / "sub" / "report.html")
    return Page(file.read_text(encoding="utf-8"))


def test_the_page_holds_what_the_files_say(folder, tmp_path):
    page = _page(tmp_path, folder)
    content = json.loads((folder / "evaluate.json").read_text())
    assert f"{100 * content['accuracy'][-1]:.2f} %" in page.text
    assert f"{100 * content['ann_accuracy']:.2f} %" in page.text
    assert f"{100 * content['quantized'][str(T)]:.2f} %" in page.text
    assert "n = 20 samples" in page.text and "Calibrated on 32 inputs" in page.text
    for name in ("evaluate", "diagnose", "cost", "compare", "samples"):
        assert f"{name}.json" in page.text
    assert "Horowitz 2014" in page.text and "Not counted: memory traffic" in page.text
    assert "transpike evaluate digits_cnn" in page.text


def test_curves_are_drawn_with_interval_quantized_ann_and_analog_network(folder, tmp_path):
    content = json.loads((folder / "evaluate.json").read_text())
    traces = _page(tmp_path, folder / "evaluate.json").chart("accuracy")["data"]
    band, line, quantized, ann = traces
    assert line["x"] == [1, 2, 3, 4] and quantized["x"] == [1, 2, 4]
    assert line["y"] == [100 * value for value in content["accuracy"]]
    low, high = (100 * value for value in content["accuracy_interval"][0])
    assert band["y"][0] == high and band["y"][-1] == low
    assert quantized["y"] == [100 * content["quantized"][str(t)] for t in (1, 2, 4)]
    assert ann["y"] == [100 * content["ann_accuracy"]] * T


def test_files_with_the_keys_of_earlier_versions_are_read(folder, tmp_path):
    def earlier(value):
        if isinstance(value, list):
            return [earlier(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {"ceiling" if k == "quantized" else k: earlier(v) for k, v in value.items()}

    for name in ("evaluate", "compare"):
        content = json.loads((folder / f"{name}.json").read_text())
        old = _write(tmp_path / f"{name}.json", earlier(content))
        assert '"ceiling"' in old.read_text() and '"quantized"' not in old.read_text()
        now, before = read_results([folder / f"{name}.json"]), read_results([old])
        assert now == before and now.evaluations[0].content["quantized"]


def test_nothing_is_drawn_before_there_is_an_output(folder, tmp_path):
    content = json.loads((folder / "evaluate.json").read_text())
    quantized = {t: value for t, value in content["quantized"].items() if t != "1"}
    file = _write(tmp_path / "late.json", {**content, "first_output": 2, "quantized": quantized})
    page = _page(tmp_path, file)
    _, line, circles, _ = page.chart("accuracy")["data"]
    assert line["x"] == [2, 3, 4] and circles["x"] == [2, 4]
    assert line["y"] == [100 * value for value in content["accuracy"][1:]]
    # A file that has values of earlier timesteps, too.
    _write(file, {**content, "first_output": 2, "metric": [0.1, 0.2, 0.3, 0.4], "ann_metric": 1})
    page = _page(tmp_path, file)
    assert page.chart("accuracy")["data"][2]["x"] == [2, 4]
    metric = page.chart("metric")["data"][0]
    assert (metric["x"], metric["y"]) == ([2, 3, 4], [0.2, 0.3, 0.4])
    assert [row[0] for row in curve_table(read_results([file]).evaluations[0]).rows] == ["2", "4"]
    lacks = "'quantized' lacks one of the timesteps 1, 2, 4"
    for wrong, message in ((1, lacks), (5, "'first_out"), (0, "'first_out"), (1.5, "'first_out")):
        _write(file, {**content, "first_output": wrong, "quantized": quantized})
        with pytest.raises(tp.FileError, match=message):
            read_results([file])


def test_several_evaluations_share_the_chart_and_get_a_table(folder, tmp_path):
    page = _page(tmp_path, folder / "evaluate.json", folder / "compare.json")
    lines = [t["name"] for t in page.chart("accuracy")["data"] if t.get("customdata")]
    rows = [row["name"] for row in json.loads((folder / "compare.json").read_text())["rows"]]
    assert len(lines) == 3 and len(rows) == 2
    assert all(name in page.text for name in rows)
    assert "All evaluations at their last timestep." in page.text


def test_two_evaluations_of_one_name_can_be_told_apart(folder, tmp_path):
    twin = _write(tmp_path / "twin.json", json.loads((folder / "evaluate.json").read_text()))
    names = [one.name for one in read_results([folder / "evaluate.json", twin]).evaluations]
    assert names == ["digits_cnn, IF (evaluate)", "digits_cnn, IF (twin)"]


def test_charts_are_valid(folder, tmp_path):
    """Plotly's own check of names and values, once colors are colors."""
    for chart in _page(tmp_path, folder).content["charts"]:
        text = re.sub(r'"@[\w-]+"', '"#123456"', json.dumps(chart))
        spec = json.loads(text)
        go.Figure(data=spec["data"], layout=spec["layout"])


def test_every_named_color_is_in_the_style_sheet(folder, tmp_path):
    page = _page(tmp_path, folder)
    text = (tmp_path / "sub" / "report.html").read_text(encoding="utf-8")
    style = text[text.index("<style>") : text.index("</style>")]
    named = set(re.findall(r'"@([\w-]+)"', json.dumps(page.content["charts"])))
    assert {"ink", "1", "1-band"} <= named
    assert all(f"--{name}:" in style for name in named)


def test_the_diagnosis_is_split_and_firing_rates_add_up(folder, tmp_path):
    page = _page(tmp_path, folder / "diagnose.json")
    content = json.loads((folder / "diagnose.json").read_text())
    names = [site["name"] for site in content["sites"]]
    bars = {t["name"]: t for t in page.chart("errors-0")["data"]}
    assert bars["quantization"]["y"] == names
    assert bars["quantization"]["x"] == pytest.approx(
        [100 * site["parts"]["quantization"]["rms"] ** 2 for site in content["sites"]]
    )
    (rates,) = page.chart("rates-0")["data"]
    assert [sum(row) for row in rates["z"]] == pytest.approx([100] * len(names))


@pytest.mark.parametrize("name", ['<script>alert("x")</script>', "</script><b>", "{{ 7 * 7 }}"])
def test_names_are_text_and_never_markup(folder, tmp_path, name):
    content = {**json.loads((folder / "evaluate.json").read_text()), "model": name, "name": name}
    page = _page(tmp_path, _write(tmp_path / "x.json", content))
    text = (tmp_path / "sub" / "report.html").read_text(encoding="utf-8")
    assert name in page.text
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert len(scripts) == 3 and "<b>" not in text[: text.index("<script")]
    (line,) = [t for t in page.chart("accuracy")["data"] if t.get("customdata")]
    assert "<script" not in line["name"]


def test_the_page_loads_nothing_from_anywhere(folder, tmp_path):
    page = _page(tmp_path, folder)
    for tag, attributes in page.tags:
        for key in ("src", "href", "srcset", "action", "poster"):
            address = attributes.get(key, "data:")
            assert address.startswith(("data:", "#")), (tag, address[:80])
    style = (tmp_path / "sub" / "report.html").read_text(encoding="utf-8")
    style = style[style.index("<style>") : style.index("</style>")]
    assert "url(" not in style and "@import" not in style
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_language_title_and_headings_in_order(folder, tmp_path):
    page = _page(tmp_path, folder)
    assert next(a for t, a in page.tags if t == "html")["lang"] == "en"
    assert "Spiking conversion of digits_cnn" in page.text
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    labels = {a["for"] for t, a in page.tags if t == "label"}
    controls = {a["id"] for t, a in page.tags if t in ("input", "select")}
    assert controls and controls <= labels


def _contrast(one, other):
    """WCAG 2.2, 1.4.3."""

    def luminance(color):
        parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_text_has_the_contrast_of_wcag_aa_in_both_themes(folder, tmp_path):
    _page(tmp_path, folder)
    text = (tmp_path / "sub" / "report.html").read_text(encoding="utf-8")
    light, dark = text[text.index(":root {") :].split("@media screen", 1)
    dark = dark[: dark.index("* {")]
    for theme in (light, dark):
        colors = dict(re.findall(r"--([\w-]+): (#\w{6});", theme))
        for ground in ("page", "panel"):
            for name in ("ink", "muted", "link"):
                assert _contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
        for number in range(1, 9):  # lines of charts are graphical objects, 1.4.11
            assert _contrast(colors[str(number)], colors["page"]) >= 3, number


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a": 1}, "is no result that a report can show"),
        ([1, 2], "is no result that a report can show"),
        ({"timesteps": 4, "accuracy": [0.5], "ann_accuracy": 1.0, "quantized": {}}, "'accuracy'"),
        ({"sites": [], "output": {}, "findings": [], "advice": ""}, "it has no sites"),
        ({"sites": 3, "output": {}, "findings": [], "advice": ""}, "it has no sites"),
        (
            {
                "sites": [],
                "operations": [],
                "energy": [{"table": "mine", "snn_pj": 1.0}],
                "energy_tables": {"mine": {"multiply_pj": 1.0, "source": ""}},
            },
            "'mine' has no source",
        ),
        ({"rows": [{"name": "a"}], "calibration_n": 3}, "holds no evaluation"),
        ({"trials": [3], "pareto": [], "recipe": {}}, "is damaged"),
    ],
)
def test_foreign_and_damaged_files_are_refused_by_name(tmp_path, content, reason):
    file = _write(tmp_path / "odd.json", content)
    with pytest.raises(tp.FileError, match=reason) as caught:
        read_results([tmp_path])
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("reading, agreement", [("scores", "%"), ("values", "–")])
def test_a_tuning_is_shown_with_what_it_measured(tmp_path, reading, agreement):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    result = tp.tune(model, [torch.randn(12, 4)], timesteps=2, signed=True, reading=reading)
    file = _write(tmp_path / "t.json", result.to_dict())
    (found,) = read_results([file]).of("tuning")
    table = text.tuning_table(found.content)
    assert len(table.rows) == min(len(result.trials), text._TRIALS)
    for row, trial in zip(table.rows, result.trials, strict=False):
        assert row[0] == trial.recipe.name and row[2].endswith(agreement)
    wrong = _write(tmp_path / "w.json", {**result.to_dict(), "trials": [{"name": "a", "n": 3}]})
    with pytest.raises(tp.FileError, match="a trial lacks its name or a number"):
        read_results([wrong])


def test_a_moved_foreign_file_no_longer_stops_the_report(folder, tmp_path):
    """The remedy of the message."""
    _write(tmp_path / "odd.json", {"a": 1})
    _write(tmp_path / "e.json", json.loads((folder / "evaluate.json").read_text()))
    with pytest.raises(tp.FileError, match="Name the files to show one by one"):
        read_results([tmp_path])
    assert len(read_results([tmp_path / "e.json"]).evaluations) == 1


def test_missing_empty_and_unreadable(tmp_path):
    with pytest.raises(tp.ArgumentError, match="at least one file or folder"):
        read_results([])
    with pytest.raises(tp.FileError, match="holds no JSON file"):
        read_results([tmp_path])
    with pytest.raises(tp.FileError, match="cannot read"):
        read_results([tmp_path / "no.json"])
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(tp.FileError, match="cannot read"):
        read_results([tmp_path / "x.json"])


def test_without_plotly(folder, tmp_path, monkeypatch):
    results = read_results([folder])
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(tp.ArgumentError, match=r"pip install 'transpike\[report\]'"):
        write_report(results, tmp_path / "r.html")


def test_infinite_and_missing_numbers_do_not_break_the_page(folder, tmp_path):
    content = json.loads((folder / "diagnose.json").read_text())
    content["sites"][0]["correlation"] = float("nan")
    content["sites"][0]["parts"]["clipping"]["rms"] = float("inf")
    page = _page(tmp_path, _write(tmp_path / "d.json", content))
    assert "NaN" not in page.data and "Infinity" not in page.data


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
    # Half of 255 is a tie that rounding of the normalized value decides.
    assert np.abs(whole.image - 255 * pixels).max() < 0.5 + 1e-3
    last = [max(t for t in range(T) if whole.snn[t, k] != whole.ann[k]) for k in whole.index]
    assert last == sorted(last, reverse=True)


def test_masks_are_those_of_the_simulation(masks, tmp_path):
    snn, x, target = masks
    samples = record_samples(snn, x, target, T, mean=[0.0], std=[1.0], recorded=[1, 4])
    run = tp.simulate(snn, x, T, output_at=[1, 4])
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
    (one,) = _page(tmp_path, tmp_path).content["masks"]
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
    record_samples(snn, x, target, T, **right)  # the remedy
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
    (tmp_path / "samples.npz").unlink()
    with pytest.raises(tp.FileError, match="Record them again"):
        read_results([tmp_path])
    samples.save(tmp_path)  # the remedy
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
    (one,) = _page(tmp_path, tmp_path).content["labeled"]
    assert one["classes"][-1] == "all others" and len(one["classes"]) == 21
    assert len(one["label"]) == n and max(one["label"]) == 20
    assert one["differ"] == [int((snn[0] != label).sum()), 0]


def test_command(folder, tmp_path):
    file = tmp_path / "r.html"
    result = CliRunner().invoke(app, ["report", str(folder), "-o", str(file), "--title", "A & B"])
    assert result.exit_code == 0, result.stderr
    assert "from 5 files" in result.stdout
    assert "<title>A &amp; B</title>" in file.read_text(encoding="utf-8")
    refused = CliRunner().invoke(app, ["report", str(tmp_path), "-o", str(file)])
    assert refused.exit_code == 2 and "holds no JSON file" in refused.stderr


def _run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_evaluate_records_samples_of_what_it_evaluates(tmp_path):
    options = ("--calibration-size", 32, "--batch-size", 16, "--timesteps", T, "--limit", 40)
    files = ("--json", tmp_path / "evaluate.json", "--samples", tmp_path)
    result = _run("evaluate", "digits_cnn", *options, *files)
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
    result = _run("evaluate", "digits_cnn", *options, *both)
    assert result.exit_code == 2 and "Leave one of them out" in result.stderr
    assert _run("evaluate", "digits_cnn", *options, *both[:2]).exit_code == 0  # the remedy


def test_of_many_curves_intervals_and_quantized_anns_begin_hidden(folder, tmp_path):
    content = json.loads((folder / "evaluate.json").read_text())
    for k in range(5):
        _write(tmp_path / f"{k}.json", {**content, "name": f"method {k}"})
    traces = _page(tmp_path, tmp_path).chart("accuracy")["data"]
    lines = [trace for trace in traces if trace.get("customdata")]
    assert len(lines) == 5 and not any("visible" in line for line in lines)
    hidden = [trace for trace in traces if trace.get("legendgroup") == "intervals"]
    assert len(hidden) == 10 and all(trace["visible"] == "legendonly" for trace in hidden)
    assert sum(trace["showlegend"] for trace in hidden) == 1


def test_masks_of_an_evaluation_are_in_the_table(folder, tmp_path):
    content = json.loads((folder / "evaluate.json").read_text())
    scores = [{"f1": 0.1234 + t, "jaccard": 0.5, "positive": 7} for t in range(T)]
    content |= {"metric": scores, "ann_metric": scores[0]}
    content |= {"mask_agreement": [{"f1": 0.7654, "jaccard": 0.5}] * T}
    page = _page(tmp_path, _write(tmp_path / "e.json", content))
    assert "F1 3.1234 (analog network 0.1234)" in page.text
    assert "0.7654" in page.text and "positive" not in page.text
    drawn = [trace["name"] for trace in page.chart("metric")["data"]]
    assert len(drawn) == 4 and any(name.endswith("Jaccard index") for name in drawn)
