"""Charts of several evaluations show intervals, and one line for each analog network."""

import json

import numpy as np
import pytest
from report_page import T, page_of, write

from transpike.report import read_results
from transpike.report.curve_charts import accuracy_chart
from transpike.report.mask_scores import FEWEST_IMAGES, f1_interval


def _chart(tmp_path, content, *changes):
    files = [
        write(tmp_path / f"{k}.json", {**content, "name": f"method {k}", **change})
        for k, change in enumerate(changes)
    ]
    return accuracy_chart(read_results(files).evaluations)


@pytest.fixture(scope="module")
def content(folder):
    return json.loads((folder / "evaluate.json").read_text())


def _dashed(chart):
    names = [trace.get("name", "").replace("<br>", " ") for trace in chart.data]
    return [name for name in names if name.startswith("ANN")]


def test_of_many_curves_intervals_are_error_bars(content, tmp_path):
    chart = _chart(tmp_path, content, *[{}] * 5)
    lines = [trace for trace in chart.data if trace.get("customdata")]
    assert len(lines) == 5 and not any("visible" in line for line in lines)
    bars = [trace for trace in chart.data if trace.get("legendgroup") == "intervals"]
    assert len(bars) == 5 and not any("visible" in trace for trace in bars)
    assert sum(trace["showlegend"] for trace in bars) == 1
    for trace in bars:
        np.testing.assert_allclose(trace["x"], [1, 2, 4], rtol=0.03)
        ends = np.add(trace["y"], trace["error_y"]["array"]) / 100
        np.testing.assert_allclose(
            ends, [content["accuracy_interval"][t - 1][1] for t in (1, 2, 4)]
        )
        starts = np.subtract(trace["y"], trace["error_y"]["arrayminus"]) / 100
        np.testing.assert_allclose(
            starts, [content["accuracy_interval"][t - 1][0] for t in (1, 2, 4)]
        )
    assert len({trace["x"][0] for trace in bars}) == 5  # The bars are side by side.
    circles = [trace for trace in chart.data if trace.get("legendgroup") == "quantized"]
    assert len(circles) == 5 and all(trace["visible"] == "legendonly" for trace in circles)
    assert "Error bars are 95 % Wilson intervals" in chart.caption


def test_equal_analog_networks_are_one_line(content, tmp_path):
    same = _chart(tmp_path, content, {}, {"n": 1000, "samples": 1000}, {"n": 9, "samples": 9})
    shown = f"{100 * content['ann_accuracy']:.2f} %"
    assert _dashed(same) == [f"ANN: {shown}"]
    assert "n = 9, 20 or 1,000" in same.caption
    other = {"ann_accuracy": 0.5, "n": 1000, "samples": 1000}
    differ = _chart(tmp_path, content, {}, other, {**other, "n": 500, "samples": 500})
    assert _dashed(differ) == [f"ANN: {shown}, n = 20", "ANN: 50.00 %, n = 500 and 1,000"]
    models = _chart(tmp_path, content, {}, {**other, "model": "b"})
    assert _dashed(models)[1] == "ANN of b: 50.00 %, n = 1,000"


def test_intervals_over_pixels_are_not_shown(content, tmp_path):
    """Such intervals are far too narrow, but files of earlier versions hold no others."""
    old = {"n": 20_000, "samples": 20}
    pixels = {key: value for key, value in content.items() if key != "intervals_over"} | old
    file = write(tmp_path / "old.json", pixels)
    page = page_of(tmp_path, file)
    traces = page.chart("accuracy")["data"]
    assert not any("fill" in trace or "error_y" in trace for trace in traces)
    assert not any(trace.get("customdata") for trace in traces)
    assert "pixels of one image are not independent" in page.text
    assert "No interval is given" in page.text and "95 % interval " not in page.text
    low, high = (f"{100 * value:.2f}" for value in content["accuracy_interval"][-1])
    assert f"{low} to {high} %" not in page.text


def test_intervals_over_images_are_shown_and_named(content, tmp_path):
    change = {"n": 20_000, "samples": 20, "intervals_over": "images"}
    page = page_of(tmp_path, write(tmp_path / "e.json", {**content, **change}))
    assert any("fill" in trace for trace in page.chart("accuracy")["data"])
    assert "The intervals are over the images" in page.text
    assert "95 % intervals over the images" in page.text and "Wilson" not in page.text
    assert len(content["accuracy_interval"]) == T


def test_f1_is_drawn_with_an_interval_over_images():
    random = np.random.RandomState(1)
    images = [(int(hit), 10, 10) for hit in random.randint(50, 150, 20)]
    found = f1_interval(images)
    whole = sum(hit for hit, *_ in images)
    f1 = 2 * whole / (2 * whole + 400)
    assert found is not None and found[0] < f1 < found[1]
    assert found == f1_interval(images)  # Every call gives the same interval.
    # A thousand times the pixels of the same images say nothing new about other images.
    assert f1_interval([(1000 * a, 1000 * b, 1000 * c) for a, b, c in images]) == found
    assert f1_interval(images[: FEWEST_IMAGES - 1]) is None
    assert f1_interval([(0, 0, 0)] * FEWEST_IMAGES) is None
    assert f1_interval([(5, 0, 0)] * FEWEST_IMAGES) == (1.0, 1.0)
