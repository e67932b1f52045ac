"""The report shows what the files hold, as text and never as markup."""

import itertools
import json
import re

import plotly.graph_objects as go
import pytest
from report_page import T, page_of, write
from typer.testing import CliRunner

import transpike as tp
from transpike.cli import app
from transpike.report import read_results, write_report
from transpike.report.text import curve_table


def test_the_page_holds_what_the_files_say(folder, tmp_path):
    page = page_of(tmp_path, folder)
    content = json.loads((folder / "evaluate.json").read_text())
    assert f"{100 * content['accuracy'][-1]:.2f} %" in page.text
    assert f"{100 * content['ann_accuracy']:.2f} %" in page.text
    assert f"{100 * content['quantized'][str(T)]:.2f} %" in page.text
    assert "n = 20 samples" in page.text and "calibrated on 32 inputs" in page.text
    for name in ("evaluate", "diagnose", "cost", "compare", "samples"):
        assert f"{name}.json" in page.text
    assert "Horowitz 2014" in page.text and "Not counted: memory traffic" in page.text
    assert "transpike evaluate digits_cnn" in page.text


def test_curves_are_drawn_with_interval_quantized_ann_and_analog_network(folder, tmp_path):
    content = json.loads((folder / "evaluate.json").read_text())
    traces = page_of(tmp_path, folder / "evaluate.json").chart("accuracy")["data"]
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
        old = write(tmp_path / f"{name}.json", earlier(content))
        assert '"ceiling"' in old.read_text() and '"quantized"' not in old.read_text()
        now, before = read_results([folder / f"{name}.json"]), read_results([old])
        assert now == before and now.evaluations[0].content["quantized"]


def test_nothing_is_drawn_before_there_is_an_output(folder, tmp_path):
    content = json.loads((folder / "evaluate.json").read_text())
    quantized = {t: value for t, value in content["quantized"].items() if t != "1"}
    file = write(tmp_path / "late.json", {**content, "first_output": 2, "quantized": quantized})
    page = page_of(tmp_path, file)
    _, line, circles, _ = page.chart("accuracy")["data"]
    assert line["x"] == [2, 3, 4] and circles["x"] == [2, 4]
    assert line["y"] == [100 * value for value in content["accuracy"][1:]]
    # This file also holds values of timesteps before the first output.
    write(file, {**content, "first_output": 2, "metric": [0.1, 0.2, 0.3, 0.4], "ann_metric": 1})
    page = page_of(tmp_path, file)
    assert page.chart("accuracy")["data"][2]["x"] == [2, 4]
    metric = page.chart("metric")["data"][0]
    assert (metric["x"], metric["y"]) == ([2, 3, 4], [0.2, 0.3, 0.4])
    assert [row[0] for row in curve_table(read_results([file]).evaluations[0]).rows] == ["2", "4"]
    lacks = "'quantized' lacks one of the timesteps 1, 2, 4"
    for wrong, message in ((1, lacks), (5, "'first_out"), (0, "'first_out"), (1.5, "'first_out")):
        write(file, {**content, "first_output": wrong, "quantized": quantized})
        with pytest.raises(tp.FileError, match=message):
            read_results([file])


def test_several_evaluations_share_the_chart_and_get_a_table(folder, tmp_path):
    page = page_of(tmp_path, folder / "evaluate.json", folder / "compare.json")
    lines = [t["name"] for t in page.chart("accuracy")["data"] if t.get("customdata")]
    rows = [row["name"] for row in json.loads((folder / "compare.json").read_text())["rows"]]
    assert len(lines) == 3 and len(rows) == 2
    assert all(name in page.text for name in rows)
    assert "All evaluations at their last timestep." in page.text


def test_charts_are_valid(folder, tmp_path):
    """Plotly accepts all names and values once colors stand in place of their names."""
    for chart in page_of(tmp_path, folder).content["charts"]:
        text = re.sub(r'"@[\w-]+"', '"#123456"', json.dumps(chart))
        spec = json.loads(text)
        go.Figure(data=spec["data"], layout=spec["layout"])


def test_every_named_color_is_in_the_style_sheet(folder, tmp_path):
    page = page_of(tmp_path, folder)
    text = (tmp_path / "sub" / "report.html").read_text(encoding="utf-8")
    style = text[text.index("<style>") : text.index("</style>")]
    named = set(re.findall(r'"@([\w-]+)"', json.dumps(page.content["charts"])))
    assert {"ink", "1", "1-band"} <= named
    assert all(f"--{name}:" in style for name in named)


def test_the_diagnosis_is_split_and_firing_rates_add_up(folder, tmp_path):
    page = page_of(tmp_path, folder / "diagnose.json")
    content = json.loads((folder / "diagnose.json").read_text())
    names = [site["name"] for site in content["sites"]]
    bars = {t["name"]: t for t in page.chart("errors-0")["data"]}
    assert bars["quantization"]["y"] == names
    assert bars["quantization"]["x"] == pytest.approx(
        [100 * site["parts"]["quantization"]["rms"] ** 2 for site in content["sites"]]
    )
    assert "The output is " in page.text and "of the predictions agree" in page.text
    assert ("No single site stands out." in page.text) == (not content["findings"])
    (rates,) = page.chart("rates-0")["data"]
    assert [sum(row) for row in rates["z"]] == pytest.approx([100] * len(names))


@pytest.mark.parametrize("name", ['<script>alert("x")</script>', "</script><b>", "{{ 7 * 7 }}"])
def test_names_are_text_and_never_markup(folder, tmp_path, name):
    content = {**json.loads((folder / "evaluate.json").read_text()), "model": name, "name": name}
    page = page_of(tmp_path, write(tmp_path / "x.json", content))
    text = (tmp_path / "sub" / "report.html").read_text(encoding="utf-8")
    assert name in page.text
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert len(scripts) == 3 and "<b>" not in text[: text.index("<script")]
    (line,) = [t for t in page.chart("accuracy")["data"] if t.get("customdata")]
    assert "<script" not in line["name"]


def test_the_page_loads_nothing_from_anywhere(folder, tmp_path):
    page = page_of(tmp_path, folder)
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
    page = page_of(tmp_path, folder)
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
    """Return the contrast ratio, as defined in WCAG 2.2, 1.4.3."""

    def luminance(color):
        parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_text_has_the_contrast_of_wcag_aa_in_both_themes(folder, tmp_path):
    page_of(tmp_path, folder)
    text = (tmp_path / "sub" / "report.html").read_text(encoding="utf-8")
    light, dark = text[text.index(":root {") :].split("@media screen", 1)
    dark = dark[: dark.index("* {")]
    for theme in (light, dark):
        colors = dict(re.findall(r"--([\w-]+): (#\w{6});", theme))
        for ground in ("page", "panel"):
            for name in ("ink", "muted", "link"):
                assert _contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
        # WCAG 1.4.11 asks for a ratio of 3 for graphical objects, such as the lines of charts.
        for number in range(1, 9):
            assert _contrast(colors[str(number)], colors["page"]) >= 3, number


def test_without_plotly(folder, tmp_path, monkeypatch):
    results = read_results([folder])
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(tp.ArgumentError, match="install it with pip install plotly"):
        write_report(results, tmp_path / "r.html")


def test_infinite_and_missing_numbers_do_not_break_the_page(folder, tmp_path):
    content = json.loads((folder / "diagnose.json").read_text())
    content["sites"][0]["correlation"] = float("nan")
    content["sites"][0]["parts"]["clipping"]["rms"] = float("inf")
    page = page_of(tmp_path, write(tmp_path / "d.json", content))
    assert "NaN" not in page.data and "Infinity" not in page.data


def test_command(folder, tmp_path):
    file = tmp_path / "r.html"
    result = CliRunner().invoke(app, ["report", str(folder), "-o", str(file), "--title", "A & B"])
    assert result.exit_code == 0, result.stderr
    assert "from 5 files" in result.stdout
    assert "<title>A &amp; B</title>" in file.read_text(encoding="utf-8")
    refused = CliRunner().invoke(app, ["report", str(tmp_path), "-o", str(file)])
    assert refused.exit_code == 2 and "holds no JSON file" in refused.stderr


def test_masks_of_an_evaluation_are_in_the_table(folder, tmp_path):
    content = json.loads((folder / "evaluate.json").read_text())
    scores = [{"f1": 0.1234 + t, "jaccard": 0.5, "positive": 7} for t in range(T)]
    content |= {"metric": scores, "ann_metric": scores[0]}
    content |= {"mask_agreement": [{"f1": 0.7654, "jaccard": 0.5}] * T}
    page = page_of(tmp_path, write(tmp_path / "e.json", content))
    assert "F1 3.1234 (analog network 0.1234)" in page.text
    assert "0.7654" in page.text and "positive" not in page.text
    drawn = [trace["name"] for trace in page.chart("metric")["data"]]
    assert len(drawn) == 4 and any(name.endswith("Jaccard index") for name in drawn)
