"""The report shows what `transpike segment` wrote: scores, slices and pictures."""

import base64
import json

import numpy as np
import pytest
from report_page import page_of, segmentation_content, write

import transpike as tp
from transpike.report import read_results
from transpike.report.png import png


def test_scores_and_slices_are_shown(tmp_path):
    page = page_of(tmp_path, write(tmp_path / "s.json", segmentation_content()))
    assert "unet:1 segmented 2 slices of data/slices" in page.text
    assert "a pixel is 4.5 nm wide and 4.6 nm high, with 50 nm between slices" in page.text
    assert "Each slice was cut into 6 tiles of 16 × 16 pixels" in page.text
    for shown in ("0.9222", "0.7400", "0.8111", "000.png", "003.png", "1,201", "87.50 %"):
        assert shown in page.text
    spiking, analog = page.chart("segmentation-0")["data"]
    assert (spiking["x"], analog["y"]) == ([1, 2, 4], [0.8111] * 3)
    assert spiking["y"] == pytest.approx([0.71, 0.72, 0.74])
    slices = {trace["name"]: trace for trace in page.chart("slices-0")["data"]}
    assert slices["SNN against the ANN"]["y"] == pytest.approx([0.91, 0.92])
    assert slices["ANN against the labels"]["x"] == ["000.png", "003.png"]


def test_without_labels_the_networks_are_compared(tmp_path):
    content = {**segmentation_content(labels=False), "interrupted": True, "exact": False}
    content["voxel_size_nm"] = [None, 4.6, 4.5]
    page = page_of(tmp_path, write(tmp_path / "s.json", content))
    assert [chart["name"] for chart in page.content["charts"]] == ["slices-0"]
    assert len(page.chart("slices-0")["data"]) == 1
    assert "The masks approximate those of whole slices." in page.text
    assert "a pixel is 4.5 nm wide and 4.6 nm high, with an unknown distance" in page.text
    assert "The run was interrupted." in page.text and "Against the labels" not in page.text


def test_files_of_earlier_versions_without_names_are_shown(tmp_path):
    content = segmentation_content()
    for row in content["per_slice"]:
        del row["name"]
    del content["voxel_size_nm"]
    page = page_of(tmp_path, write(tmp_path / "s.json", content))
    assert page.chart("slices-0")["data"][0]["x"] == ["0", "1"]


def test_pictures_of_the_same_run_are_on_the_page(tmp_path):
    picture = png(np.eye(8, dtype=bool))
    (tmp_path / "overview.png").write_bytes(picture)
    link = "data:image/png;base64," + base64.b64encode(picture).decode()
    page = page_of(tmp_path, write(tmp_path / "segment.json", segmentation_content()))
    assert [a["src"] for tag, a in page.tags if tag == "img"] == [link]
    # The pictures beside a copy may belong to another run.
    copy = write(tmp_path / "copy.json", segmentation_content())
    assert not any(tag == "img" for tag, _ in page_of(tmp_path / "copied", copy).tags)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"per_slice": []}, "it has no slices"),
        ({"timesteps": "4"}, "'timesteps' is missing"),
        ({"shape": None}, "the shape of the volume or of a tile is missing"),
        ({"per_slice": [{"slice": 3}]}, "slice 3 lacks a score under 'against_ann'"),
        ({"timesteps": 5}, "its scores lack the last timestep, 5"),
        ({"against_ann": {"n": 3}}, "a score of the masks is missing"),
    ],
)
def test_a_damaged_result_is_refused(change, reason, tmp_path):
    file = write(tmp_path / "s.json", {**segmentation_content(), **change})
    with pytest.raises(tp.FileError, match=f"of the kind 'segmentation', but {reason}"):
        read_results([file])
    file.write_text(json.dumps(segmentation_content()))  # The remedy is a complete file.
    assert read_results([file]).of("segmentation")
