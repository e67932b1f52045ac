"""A written report as its reader gets it, with its tags, visible text and data."""

import json
from html.parser import HTMLParser

from transpike.report import read_results, write_report

T = 4


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
