"""Write results as one HTML page, which needs no network, no server and no other file.

    results = read_results(["results/"])  # files that the commands wrote with --json or --samples
    write_report(results, "report.html")

It needs jinja2 and plotly, the extra `report`. docs/report.md describes what the page shows.
"""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from transpike.errors import FileError, TranspikeError, missing_package
from transpike.files import write_text
from transpike.report import curve_charts, segmentation, site_charts, text
from transpike.report.chart_parts import Chart, finite
from transpike.report.mask_scores import mask_scores
from transpike.report.png import data_link, png_link
from transpike.report.read import Found, Results
from transpike.report.read import read_results as read_results
from transpike.report.samples import Samples as Samples
from transpike.report.samples import join_samples as join_samples
from transpike.report.samples import read_samples as read_samples
from transpike.report.samples import record_samples as record_samples
from transpike.report.settings import settings_tables

_MOST_CLASSES = 30  # a confusion table with more classes shows only some of them
_SHOWN_CLASSES = 20  # number of classes that it then shows


def write_report(results: Results, file: str | Path, *, title: str | None = None) -> Path:
    """Write results as one HTML page.

    Args:
        results: results from `read_results`.
        file: file to write; its folders are made.
        title: title of the page; None means the names of the models.

    Returns:
        The path of the file.

    Raises:
        ArgumentError: jinja2 or plotly is not installed.
        FileError: the file cannot be written, or a value in the results is of the wrong kind.
    """
    try:
        page = _page(results, title)
    except TranspikeError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        names = ", ".join(repr(found.file) for found in results.files)
        raise FileError(
            f"cannot show {names}: needed values as the commands write them, got one of another "
            f"kind ({type(error).__name__}: {error}). Write the results again with this version "
            "of transpike."
        ) from error
    file = Path(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, page)
    except OSError as error:
        raise FileError(f"cannot write {str(file)!r}: {error.strerror or error}.") from error
    return file


def _page(results: Results, title: str | None) -> str:
    try:
        import jinja2
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise missing_package(str(error.name).partition(".")[0]) from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_resource("template.html.j2"))
    sections = _sections(results)
    return template.render(
        title=title or _title(results),
        css=Markup(_resource("page.css")),
        script=Markup(_resource("page.js")),
        plotly=Markup(get_plotlyjs()),
        data=_page_data(sections),
        downloads=[_download(found) for found in results.files],
        settings=settings_tables(results),
        **sections,
    )


def _resource(name: str) -> str:
    return files("transpike.report").joinpath(name).read_text(encoding="utf-8")


def _title(results: Results) -> str:
    models = dict.fromkeys(
        str(found.content["model"]) for found in results.files if found.content.get("model")
    )
    return "Spiking conversion of " + ", ".join(models) if models else "Spiking conversion"


def _sections(results: Results) -> dict[str, Any]:
    """The values that the template fills in."""
    evaluations = results.evaluations
    numbered = list(enumerate(results.samples.items()))
    return {
        "summaries": text.summaries(evaluations),
        "methods": text.methods_table(evaluations) if len(evaluations) > 1 else None,
        "accuracy": curve_charts.accuracy_chart(evaluations) if evaluations else None,
        "metric": curve_charts.metric_chart(evaluations),
        "curves": [text.curve_table(one) for one in evaluations],
        "diagnoses": [_diagnosis(k, found) for k, found in enumerate(results.of("diagnosis"))],
        "costs": [_cost(k, found) for k, found in enumerate(results.of("cost"))],
        "tunings": [
            {"name": found.stem, "table": text.tuning_table(found.content)}
            for found in results.of("tuning")
        ],
        "segmentations": [
            _segmentation(k, found) for k, found in enumerate(results.of("segmentation"))
        ],
        "masks": [_masks(k, *pair) for k, pair in numbered if pair[1].kind == "segmentation"],
        "labeled": [_labeled(k, *pair) for k, pair in numbered if pair[1].kind != "segmentation"],
    }


def _diagnosis(number: int, found: Found) -> dict[str, Any]:
    content = found.content
    return {
        "name": found.stem,
        "findings": content["findings"],
        "verdict": text.diagnosis_verdict(content),
        "advice": str(content["advice"]).splitlines(),
        "errors": site_charts.error_chart(f"errors-{number}", content),
        "rates": site_charts.rates_chart(f"rates-{number}", content),
        "table": text.diagnosis_table(content),
        "rates_table": text.rates_table(content),
    }


def _cost(number: int, found: Found) -> dict[str, Any]:
    content = found.content
    return {
        "name": found.stem,
        "sentence": text.cost_sentence(content),
        "chart": site_charts.energy_chart(f"energy-{number}", content),
        "energy": text.energy_table(content),
        "operations": text.operations_table(content),
        "assumptions": text.assumptions(content),
    }


def _segmentation(number: int, found: Found) -> dict[str, Any]:
    content = found.content
    drawn = [
        segmentation.timesteps_chart(f"segmentation-{number}", content),
        segmentation.slices_chart(f"slices-{number}", content),
    ]
    tables = [segmentation.timesteps_table(content), segmentation.slices_table(content)]
    return {
        "name": Path(str(content["volume"])).name,
        "sentences": segmentation.sentences(content),
        "charts": [chart for chart in drawn if chart is not None],
        "tables": [table for table in tables if table is not None],
        "pictures": [
            {"caption": segmentation.PICTURES[name], "link": png_link(content)}
            for name, content in found.pictures.items()
        ],
    }


def _masks(number: int, name: str, samples: Samples) -> dict[str, Any]:
    """Images and masks as pictures; the page draws a mask over its image."""
    scores = mask_scores(samples)
    images = []
    for k, values in enumerate(scores["images"]):
        images.append(
            {
                "raw": data_link(samples.image[k]),
                "label": data_link(samples.label[k] > 0),
                "ann": data_link(samples.ann[k] > 0),
                "snn": [data_link(one[k] > 0) for one in samples.snn],
                "scores": values,
            }
        )
    height, width = samples.image.shape[1:]
    return {
        "id": f"masks-{number}",
        "name": name,
        "model": samples.facts.get("model"),
        "n": len(samples),
        "width": width,
        "height": height,
        "timesteps": list(samples.timesteps),
        "found": samples.classes[1],
        "chart": curve_charts.mask_chart(f"f1-{number}", samples, scores),
        "table": text.mask_table(samples, scores),
        "images": images,
    }


def _labeled(number: int, name: str, samples: Samples) -> dict[str, Any]:
    """Predictions for the confusion tables, and pictures of samples that flip."""
    shown = _shown_classes(samples)
    others = len(shown) < len(samples.classes)
    place = np.full(len(samples.classes), len(shown))
    place[shown] = np.arange(len(shown))
    names = [samples.classes[index] for index in shown] + ["all others"] * others
    flips = [
        {
            "picture": data_link(picture),
            "index": int(k),
            "label": samples.classes[samples.label[k]],
            "ann": samples.classes[samples.ann[k]],
            "snn": [samples.classes[index] for index in samples.snn[:, k]],
        }
        for picture, k in zip(samples.image, samples.index.tolist(), strict=True)
    ]
    return {
        "id": f"labeled-{number}",
        "name": name,
        "model": samples.facts.get("model"),
        "n": len(samples),
        "timesteps": list(samples.timesteps),
        "classes": names,
        "every_class": not others,
        "label": place[samples.label].tolist(),
        "ann": place[samples.ann].tolist(),
        "snn": place[samples.snn].tolist(),
        "right": [int((one == samples.label).sum()) for one in samples.snn],
        "ann_right": int((samples.ann == samples.label).sum()),
        "differ": [int((one != samples.ann).sum()) for one in samples.snn],
        "flips": flips,
    }


def _shown_classes(samples: Samples) -> list[int]:
    """All classes, or of many classes those where the networks differ most at the last timestep."""
    count = len(samples.classes)
    if count <= _MOST_CLASSES:
        return list(range(count))
    differs = samples.snn[-1] != samples.ann
    weight = np.bincount(samples.label[differs], minlength=count)
    most = np.argsort(-weight, kind="stable")[:_SHOWN_CLASSES]
    return sorted(int(index) for index in most)


def _page_data(sections: dict[str, Any]) -> dict[str, Any]:
    """The data that the script of the page reads."""
    drawn: list[Chart | None] = [sections["accuracy"], sections["metric"]]
    drawn += [one[key] for one in sections["diagnoses"] for key in ("errors", "rates")]
    drawn += [one["chart"] for one in (*sections["costs"], *sections["masks"])]
    drawn += [chart for one in sections["segmentations"] for chart in one["charts"]]
    masks = [
        {key: value for key, value in one.items() if key not in ("chart", "table")}
        for one in sections["masks"]
    ]
    return {
        "charts": [_finite(chart.to_dict()) for chart in drawn if chart is not None],
        "masks": masks,
        "labeled": sections["labeled"],
    }


def _finite(value: Any) -> Any:
    """The same value with None for numbers that JSON cannot express."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return finite(value) if isinstance(value, float) else value


def _download(found: Found) -> dict[str, str]:
    content = json.dumps(found.content, indent=1).encode("utf-8")
    link = "data:application/json;base64," + base64.b64encode(content).decode("ascii")
    return {"file": found.file, "kind": found.kind, "link": link, "size": f"{len(content):,}"}


__all__ = [
    "Results",
    "Samples",
    "join_samples",
    "read_results",
    "read_samples",
    "record_samples",
    "write_report",
]
