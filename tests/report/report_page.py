"""A written report as its reader gets it, with its tags, visible text and data."""

import json
from html.parser import HTMLParser

from transpike.report import read_results, write_report

T = 4
_SCORES = {"f1": 0.5, "jaccard": 0.25, "accuracy": 0.875}


class Page(HTMLParser):
    """The tags of a page with their attributes, its visible text, and its data."""

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


def write(file, content):
    file.write_text(json.dumps(content, default=str))
    return file


def page_of(tmp_path, *paths):
    file = write_report(read_results(paths), tmp_path / "sub" / "report.html")
    return Page(file.read_text(encoding="utf-8"))


def segmentation_content(labels=True):
    """Return what `transpike segment` writes into segment.json for two slices."""
    rows = []
    for k, name in enumerate(("000.png", "003.png")):
        row = {
            "slice": k,
            "name": name,
            "positive": {"ann": 1200 + k, "snn": 1100 + k},
            "against_ann": {**_SCORES, "f1": 0.91 + 0.01 * k},
            "spikes_per_neuron": 1.5,
        }
        if labels:
            row |= {"ann": {**_SCORES, "f1": 0.8123}, "snn": {**_SCORES, "f1": 0.7987}}
        rows.append(row)
    scores = {
        "n": 3072,
        "ann": {**_SCORES, "f1": 0.8111},
        "snn": {str(t): {**_SCORES, "f1": 0.7 + 0.01 * t} for t in (1, 2, 4)},
    }
    return {
        "volume": "data/slices",
        "shape": [2, 32, 48],
        "model": "unet:1",
        "timesteps": 4,
        "max_count": 2,
        "tile": [16, 16],
        "tiles_per_slice": 6,
        "exact": True,
        "interrupted": False,
        "spikes_per_neuron": 1.5,
        "against_ann": {**_SCORES, "f1": 0.9222, "n": 3072},
        "scores": scores if labels else None,
        "per_slice": rows,
        "voxel_size_nm": [50.0, 4.6, 4.5],
    }
