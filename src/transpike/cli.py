"""The command line: results go to stdout, progress to stderr, bad input ends with code 2."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor
from typer.core import TyperGroup

import transpike as tp
from transpike import demo as demonstration
from transpike.data import Dataset, Split, open_data
from transpike.figures import cost_figure, diagnosis_figure
from transpike.models import build_model
from transpike.specs import (
    parse_neuron,
    parse_passes,
    parse_shape,
    parse_threshold,
    parse_until,
)

USER_ERROR = 2  # exit code, the same that wrong options give
_INTERRUPTED = 130  # the shell's code for Ctrl-C
_CONFIG_FILE = "config.json"  # what a saved network is recognised by
_DEFAULT_SHAPES: Mapping[str, tuple[int, ...]] = {"resnet20": (3, 32, 32), "digits_cnn": (1, 8, 8)}
_IMAGENET_SHAPE = (3, 224, 224)
_TIMESTEPS = 32  # of a run where neither the user nor a recipe says

ProgressCallback = Callable[[int, int | None], None]


class _Commands(TyperGroup):
    """Turns the library's own errors into one message and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except tp.TranspikeError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(USER_ERROR) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Converts trained PyTorch networks to spiking networks and measures them.",
)

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="resnet20, digits_cnn, torchvision:NAME, timm:NAME or package.module:factory.",
    ),
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="File of weights: .safetensors, .pt, .pth, .th.")
]
ClassesOption = Annotated[
    int | None, typer.Option("--num-classes", min=1, help="Size of the model's output.")
]
DataOption = Annotated[
    str,
    typer.Option("--data", help="digits, cifar10:PATH or folder:PATH; calibrates on its train."),
]
NeuronOption = Annotated[
    str | None,
    typer.Option(
        "--neuron",
        help="if (default), burst:5, burst:8:resolution, signed:1, multi:3, differential:8 or "
        "telescoped:8.",
    ),
]
ThresholdOption = Annotated[
    str | None,
    typer.Option("--threshold", help="percentile:99.9 (default), max, lsq, gauss, ltb."),
]
GranularityOption = Annotated[
    str | None, typer.Option("--granularity", help="One threshold per channel (default) or layer.")
]
MembraneOption = Annotated[
    float | None,
    typer.Option("--initial-membrane", help="At the start, a fraction of the step (default 0.5)."),
]
CalibrationOption = Annotated[
    int | None,
    typer.Option("--calibration-size", min=1, help="Training images used (default 512)."),
]
PassesOption = Annotated[
    str | None,
    typer.Option(
        "--calibrate", help="Passes, in order: bias, membrane, search, delay, allocate:SPIKES."
    ),
]
RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", help="A file written by transpike tune.")
]
SavedOrModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL|FOLDER", help="A model's name or a saved folder.")
]
TimestepsOption = Annotated[int, typer.Option("--timesteps", help="Length of the run.")]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", help="Use a random part of the test images, at most so many."),
]
FigureOption = Annotated[
    Path | None, typer.Option("-o", "--output", help="Also draw it into this file (.png, .svg).")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of every random choice.")]
BatchOption = Annotated[int, typer.Option("--batch-size", min=1, help="Images at a time.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write the result to this file.")
]


@dataclass(frozen=True)
class _Choices:
    """What decides a conversion; None where the user left the default."""

    weights: Path | None
    num_classes: int | None
    neuron: str | None
    threshold: str | None
    granularity: str | None
    initial_membrane: float | None
    calibration_size: int | None
    calibrate: str | None = None
    recipe: Path | None = None

    def given(self) -> list[str]:
        """The options that were given, by name."""
        return [
            f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value is not None
        ]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"transpike {tp.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and end."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def inspect(
    model: ModelArgument,
    weights: WeightsOption = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Take the input shape from this data set.")
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option("--input-shape", help="Of one input, as 3x224x224.")
    ] = None,
    num_classes: ClassesOption = None,
    json_file: JsonOption = None,
) -> None:
    """Print what a conversion would do: sites, what each operation becomes, what is refused."""
    if input_shape is not None:
        shape = parse_shape(input_shape)
    elif data is not None:
        shape = open_data(data).input_shape
    else:
        shape = _DEFAULT_SHAPES.get(model, _IMAGENET_SHAPE)
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    report = tp.inspect(build_model(model, weights, num_classes), example)
    typer.echo(str(report))
    _write_json(json_file, {"model": model, "input_shape": list(shape), **report.to_dict()})


@app.command()
def convert(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to save it in.")],
    weights: WeightsOption = None,
    num_classes: ClassesOption = None,
    data: DataOption = "digits",
    neuron: NeuronOption = None,
    threshold: ThresholdOption = None,
    granularity: GranularityOption = None,
    initial_membrane: MembraneOption = None,
    calibration_size: CalibrationOption = None,
    calibrate: PassesOption = None,
    recipe: RecipeOption = None,
    timesteps: Annotated[
        int | None,
        typer.Option(
            "--timesteps", help="Needed by --threshold lsq and gauss, and by --calibrate."
        ),
    ] = None,
    seed: SeedOption = 0,
    batch_size: BatchOption = 128,
    device: DeviceOption = "cpu",
    json_file: JsonOption = None,
) -> None:
    """Convert a model and save the spiking network in a folder."""
    choices = _Choices(
        weights,
        num_classes,
        neuron,
        threshold,
        granularity,
        initial_membrane,
        calibration_size,
        calibrate,
        recipe,
    )
    run = _Run(open_data(data), _device(device), batch_size, seed)
    snn = run.convert(model, choices, timesteps)
    tp.save(snn, output)
    typer.echo(
        f"saved {output}: {len(snn.network.sites)} sites, {snn.network.neurons} neurons\n"
        f"evaluate it with: transpike evaluate {shlex.quote(str(output))} --data "
        f"{shlex.quote(data)}"
    )
    sites = [
        {
            "name": site.name,
            "shape": list(site.shape),
            "max_count": snn.neurons[site.name].max_count,
        }
        for site in snn.network.sites
    ]
    summary = {"folder": str(output), "sites": sites, "neurons": snn.network.neurons}
    settings = _plain(dict(snn.settings))
    _write_json(
        json_file, {**summary, "settings": settings, **run.record(model, data, choices, snn)}
    )


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|FOLDER", help="A model's name or a saved folder.")
    ],
    weights: WeightsOption = None,
    num_classes: ClassesOption = None,
    data: DataOption = "digits",
    neuron: NeuronOption = None,
    threshold: ThresholdOption = None,
    granularity: GranularityOption = None,
    initial_membrane: MembraneOption = None,
    calibration_size: CalibrationOption = None,
    calibrate: PassesOption = None,
    recipe: RecipeOption = None,
    timesteps: Annotated[
        int | None,
        typer.Option("--timesteps", help="Length of the run (default: the recipe's, or 32)."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Use a random part of the test images.")
    ] = None,
    seed: SeedOption = 0,
    batch_size: BatchOption = 128,
    device: DeviceOption = "cpu",
    precision: Annotated[
        str,
        typer.Option("--precision", help="exact, fast (bfloat16 products) or split (on CUDA)."),
    ] = "exact",
    compare_exact: Annotated[
        bool,
        typer.Option("--compare-exact", help="Also run exact and say how many predictions agree."),
    ] = False,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            help="Stop a settled image: margin:0.9 or entropy:0.1; margin or entropy alone take "
            "their threshold from the calibration images.",
        ),
    ] = None,
    memory: Annotated[
        int | None, typer.Option("--memory", min=1, help="MiB for values and states.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure accuracy at every timestep of a model, converted now, or of a saved folder."""
    choices = _Choices(
        weights,
        num_classes,
        neuron,
        threshold,
        granularity,
        initial_membrane,
        calibration_size,
        calibrate,
        recipe,
    )
    run = _Run(open_data(data), _device(device), batch_size, seed)
    if timesteps is None:
        timesteps = _TIMESTEPS if recipe is None else tp.Recipe.load(recipe).timesteps
    snn, used = run.loaded_or_converted(model, choices, timesteps)
    test = run.data.test if limit is None else run.data.test.subset(limit, seed)
    rule = run.stopping_rule(snn, until, timesteps, choices)
    with _progress("evaluate (images x timesteps)", len(test) * timesteps) as progress:
        result = tp.evaluate(
            snn,
            run.batches(test),
            timesteps,
            precision=precision,
            compare_exact=compare_exact,
            until=rule,
            memory_budget=None if memory is None else memory * 2**20,
            progress=progress,
        )
    typer.echo(str(result))
    record = run.record(model, data, used, snn)
    stopping = None if rule is None else asdict(rule)
    _write_json(json_file, {**result.to_dict(), "limit": limit, "until": stopping, **record})
    if result.interrupted:
        raise typer.Exit(_INTERRUPTED)


@app.command()
def diagnose(
    model: SavedOrModelArgument,
    weights: WeightsOption = None,
    num_classes: ClassesOption = None,
    data: DataOption = "digits",
    neuron: NeuronOption = None,
    threshold: ThresholdOption = None,
    granularity: GranularityOption = None,
    initial_membrane: MembraneOption = None,
    calibration_size: CalibrationOption = None,
    timesteps: TimestepsOption = 32,
    limit: LimitOption = 200,
    seed: SeedOption = 0,
    batch_size: BatchOption = 50,
    device: DeviceOption = "cpu",
    figure: FigureOption = None,
    json_file: JsonOption = None,
) -> None:
    """Compare the spiking with the analog network site by site; name what is wrong."""
    choices = _Choices(
        weights, num_classes, neuron, threshold, granularity, initial_membrane, calibration_size
    )
    run = _Run(open_data(data), _device(device), batch_size, seed)
    snn, used = run.loaded_or_converted(model, choices, timesteps)
    images = run.test_images(limit)
    # Without a file of weights the model would be built anew with other random ones.
    original = build_model(model, weights, num_classes) if used and weights else None
    with _progress("diagnose", len(images)) as progress:
        result = tp.diagnose(snn, run.batches(images), timesteps, model=original, progress=progress)
    typer.echo(str(result))
    _write_figure(figure, diagnosis_figure, result)
    _write_json(
        json_file,
        {**_plain(result.to_dict()), "limit": limit, **run.record(model, data, used, snn)},
    )


@app.command()
def cost(
    model: SavedOrModelArgument,
    weights: WeightsOption = None,
    num_classes: ClassesOption = None,
    data: DataOption = "digits",
    neuron: NeuronOption = None,
    threshold: ThresholdOption = None,
    granularity: GranularityOption = None,
    initial_membrane: MembraneOption = None,
    calibration_size: CalibrationOption = None,
    timesteps: TimestepsOption = 32,
    limit: LimitOption = 200,
    seed: SeedOption = 0,
    batch_size: BatchOption = 50,
    device: DeviceOption = "cpu",
    figure: FigureOption = None,
    json_file: JsonOption = None,
) -> None:
    """Count spikes, operations and memory; estimate energy beside the analog network's."""
    choices = _Choices(
        weights, num_classes, neuron, threshold, granularity, initial_membrane, calibration_size
    )
    run = _Run(open_data(data), _device(device), batch_size, seed)
    snn, used = run.loaded_or_converted(model, choices, timesteps)
    images = run.test_images(limit)
    with _progress("cost", len(images)) as progress:
        result = tp.measure_cost(snn, run.batches(images), timesteps, progress=progress)
    typer.echo(str(result))
    _write_figure(figure, cost_figure, result)
    _write_json(
        json_file,
        {**_plain(result.to_dict()), "limit": limit, **run.record(model, data, used, snn)},
    )


@app.command()
def tune(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="File for the recipe (JSON).")],
    timesteps: TimestepsOption,
    weights: WeightsOption = None,
    num_classes: ClassesOption = None,
    data: DataOption = "digits",
    max_count: Annotated[
        int, typer.Option("--max-count", min=1, help="Largest count per timestep.")
    ] = 1,
    spikes: Annotated[
        float | None, typer.Option("--spikes", help="Budget: spikes per neuron over all timesteps.")
    ] = None,
    signed: Annotated[
        bool | None,
        typer.Option("--signed/--unsigned", help="Only signed, or only unsigned neurons."),
    ] = None,
    calibration_size: CalibrationOption = None,
    seed: SeedOption = 0,
    batch_size: BatchOption = 128,
    device: DeviceOption = "cpu",
    json_file: JsonOption = None,
) -> None:
    """Choose the recipe for a budget by fidelity on held-out training images; needs no labels."""
    choices = _Choices(weights, num_classes, None, None, None, None, calibration_size)
    run = _Run(open_data(data), _device(device), batch_size, seed)
    network, images = run.captured(model, choices)
    with _progress("tune", None) as progress:
        result = tp.tune(
            network,
            images,
            timesteps=timesteps,
            max_count=max_count,
            spikes=spikes,
            signed=signed,
            seed=seed,
            progress=progress,
        )
    result.recipe.save(output)
    command = ["transpike", "evaluate", model, "--recipe", str(output), "--data", data]
    command += [] if weights is None else ["--weights", str(weights)]
    command += [] if num_classes is None else ["--num-classes", str(num_classes)]
    typer.echo(f"{result}\n\nsaved {output}\nuse it with: {shlex.join(command)}")
    content = {"model": model, "data": data, **result.to_dict(), **_provenance(seed)}
    _write_json(json_file, _plain(content))


@app.command()
def compare(
    model: ModelArgument,
    timesteps: TimestepsOption,
    weights: WeightsOption = None,
    num_classes: ClassesOption = None,
    data: DataOption = "digits",
    max_count: Annotated[
        int, typer.Option("--max-count", min=1, help="K of the methods that have one.")
    ] = 1,
    recipe: Annotated[
        list[Path] | None, typer.Option("--recipe", help="Also this recipe; may be repeated.")
    ] = None,
    calibration_size: CalibrationOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    batch_size: BatchOption = 128,
    device: DeviceOption = "cpu",
    json_file: JsonOption = None,
) -> None:
    """Print one table of methods on one network, all on the same test images."""
    choices = _Choices(weights, num_classes, None, None, None, None, calibration_size)
    run = _Run(open_data(data), _device(device), batch_size, seed)
    network, images = run.captured(model, choices)
    recipes = tp.methods(timesteps, max_count)
    recipes |= {f"recipe {file}": tp.Recipe.load(file) for file in recipe or []}
    test = list(run.batches(run.test_images(limit)))
    with _progress("compare", len(recipes)) as progress:
        result = tp.compare(network, images, test, recipes, progress=progress)
    typer.echo(str(result))
    content = {**result.to_dict(), "limit": limit, **run.record(model, data, choices, None)}
    _write_json(json_file, _plain(content))


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="vgg-cifar or unet-lucchi.")],
    data: Annotated[str, typer.Option("--data", help="cifar10:PATH or lucchi:PATH.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for what it makes.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")
    ] = False,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="In all; the recipe's own by default.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Images at a time.")
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", min=1, help="Channels of the U-Net's first stage.")
    ] = None,
    validation: Annotated[
        int | None, typer.Option("--validation", min=1, help="CIFAR-10 images held out.")
    ] = None,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Train a network of the zoo; writes checkpoints, weights and a card into a folder."""
    from transpike.train import run

    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "width": width,
        "validation": validation,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    with _progress(f"train {recipe}", None) as progress:
        result = run(
            recipe,
            data,
            output,
            {**settings, "seed": seed},
            resume=resume,
            progress=progress,
            report=lambda scores: typer.echo(
                ", ".join(f"{name} {value:.4g}" for name, value in scores.items()), err=True
            ),
        )
    content = {**result, **_provenance(seed)}
    _write_json(output / "result.json", content)
    _write_json(json_file, content)
    scores = {name: value for name, value in result.items() if isinstance(value, float)}
    typer.echo("\n".join(f"{name} {value:.4f}" for name, value in scores.items()))
    typer.echo(f"written: {output}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for what it makes.")] = (
        Path("demo-output")
    ),
    timesteps: Annotated[int, typer.Option("--timesteps", help="Length of the runs.")] = 32,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Train a small network on digits, convert it, and print and draw its accuracy over time."""
    with _progress("train", None) as progress:
        model, data = demonstration.train(seed, progress)
    results: dict[str, tp.Evaluation] = {}
    for label, neuron in demonstration.neurons().items():
        snn = demonstration.convert(model, data, neuron, seed)
        with _progress(f"evaluate {label}", None) as progress:
            results[label] = tp.evaluate(
                snn, demonstration.evaluation_batches(data), timesteps, progress=progress
            )
        if label == demonstration.DEFAULT_LABEL:
            tp.save(snn, output / "network")
    typer.echo(demonstration.table(results))
    content = {
        "model": "digits_cnn",
        "data": "digits",
        "calibration": {"split": "train", "n": demonstration.CALIBRATION_SIZE, "seed": seed},
        "results": {label: result.to_dict() for label, result in results.items()},
        **_provenance(seed),
    }
    figure = demonstration.draw(results, output / "accuracy.png")
    _write_json(output / "accuracy.json", content)
    _write_json(json_file, content)
    typer.echo(
        f"\nwritten: {output / 'network'}, {figure}, {output / 'accuracy.json'}\n"
        f"again:   transpike evaluate {shlex.quote(str(output / 'network'))} --data digits"
    )


@dataclass(frozen=True)
class _Run:
    """The data and the machine of one command."""

    data: Dataset
    device: torch.device
    batch_size: int
    seed: int

    def batches(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """The split's batches, on the device."""
        for images, labels in split.batches(self.batch_size):
            yield images.to(self.device), labels.to(self.device)

    def count(self, images: int) -> int:
        """Number of batches."""
        return -(-images // self.batch_size)

    def convert(self, name: str, choices: _Choices, timesteps: int | None) -> tp.SpikingNetwork:
        """Builds, captures, calibrates and converts the model `name`."""
        recipe = self.recipe(choices, timesteps)
        model = build_model(name, choices.weights, choices.num_classes).to(self.device)
        images = self.calibration_images(choices)
        example, _ = next(self.batches(images))
        network = tp.capture(model, example)
        with _progress("calibrate", self.count(len(images))) as progress:
            calibration = tp.calibrate(network, self.batches(images), progress=progress)
        inputs = [x for x, _ in self.batches(images)] if recipe.calibrate else None
        return tp.convert(
            network,
            calibration,
            neuron=recipe.neuron,
            threshold=recipe.threshold,
            timesteps=recipe.timesteps if choices.recipe or timesteps else None,
            calibrate=recipe.calibrate,
            batches=inputs,
        )

    def recipe(self, choices: _Choices, timesteps: int | None) -> tp.Recipe:
        """The recipe of `--recipe`, or what the other options say."""
        if choices.recipe is not None:
            fixed = "neuron threshold granularity initial_membrane calibrate".split()
            clash = [f"--{n.replace('_', '-')}" for n in fixed if getattr(choices, n) is not None]
            if clash:
                raise tp.ArgumentError(
                    f"--recipe: {', '.join(clash)} cannot change a recipe. Leave these options out."
                )
            return tp.Recipe.load(choices.recipe)
        membrane = 0.5 if choices.initial_membrane is None else choices.initial_membrane
        passes = () if choices.calibrate is None else parse_passes(choices.calibrate)
        if passes and timesteps is None:
            raise tp.ArgumentError("--calibrate: a pass is for one T. Give --timesteps.")
        return tp.Recipe(
            timesteps or 1,
            parse_neuron(choices.neuron or "if", membrane),
            parse_threshold(
                choices.threshold or "percentile:99.9", choices.granularity or "channel"
            ),
            passes,
        )

    def captured(self, name: str, choices: _Choices) -> tuple[tp.Network, list[Tensor]]:
        """The captured model `name`, and batches of calibration images."""
        model = build_model(name, choices.weights, choices.num_classes).to(self.device)
        images = [x for x, _ in self.batches(self.calibration_images(choices))]
        return tp.capture(model, images[0]), images

    def loaded_or_converted(
        self, model: str, choices: _Choices, timesteps: int
    ) -> tuple[tp.SpikingNetwork, _Choices | None]:
        """A saved network, or the model converted now with these choices."""
        if not (Path(model) / _CONFIG_FILE).is_file():
            return self.convert(model, choices, timesteps), choices
        if choices.given():
            raise tp.ArgumentError(
                f"{model!r} is a converted network: {', '.join(choices.given())} cannot change it. "
                "Leave these options out, or convert again."
            )
        return tp.load(model).to(self.device), None

    def test_images(self, limit: int | None) -> Split:
        """A random part of the test images, at most `limit`."""
        count = len(self.data.test)
        return (
            self.data.test if limit is None else self.data.test.subset(min(limit, count), self.seed)
        )

    def calibration_images(self, choices: _Choices) -> Split:
        """A random part of the training images."""
        wanted = choices.calibration_size or demonstration.CALIBRATION_SIZE
        return self.data.train.subset(wanted, self.seed)

    def stopping_rule(
        self, snn: tp.SpikingNetwork, text: str | None, timesteps: int, choices: _Choices
    ) -> tp.Until | None:
        """The rule of `--until`, its threshold taken from training images where none is given."""
        if text is None:
            return None
        rule, threshold = parse_until(text)
        if threshold is not None:
            return tp.Until(rule, threshold)
        images = self.batches(self.calibration_images(choices))
        return tp.fit_until(snn, images, timesteps, rule=rule)

    def record(
        self, model: str, data: str, choices: _Choices | None, snn: tp.SpikingNetwork | None
    ) -> dict[str, Any]:
        """What a result needs to be repeated; a saved network keeps its own calibration."""
        calibration: dict[str, Any] | None = None
        if choices is not None:
            used = self.calibration_images(choices)
            calibration = {"data": data, "split": "train", "n": len(used), "seed": self.seed}
        return {
            "model": model,
            "data": data,
            "normalisation": self.data.normalisation.to_dict(),
            "calibration": calibration,
            "batch_size": self.batch_size,
            "device": str(self.device),
            **_provenance(self.seed),
        }


def _provenance(seed: int) -> dict[str, Any]:
    return {
        "command": shlex.join(["transpike", *sys.argv[1:]]),
        "seed": seed,
        "versions": {
            "transpike": tp.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise tp.ArgumentError(
            f"--device {name!r} cannot be used: {reason}. Use --device cpu."
        ) from error
    return device


@contextmanager
def _progress(task: str, total: int | None) -> Iterator[ProgressCallback]:
    """A bar on stderr; nothing where stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        handle = bar.add_task(task, total=total)

        def advance(done: int, of: int | None) -> None:
            bar.update(handle, completed=done, total=total if of is None else of)

        yield advance


def _plain(value: Any) -> Any:
    """The same value in JSON's types; what has none becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _write_figure(file: Path | None, draw: Callable[[Any], Any], result: Any) -> None:
    if file is None:
        return
    figure = draw(result)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise tp.FileError(f"cannot write {str(file)!r}: {error}.") from error


def _write_json(file: Path | None, content: dict[str, Any]) -> None:
    if file is None:
        return
    if "command" not in content:
        content = {**content, **_provenance(0)}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise tp.FileError(f"cannot write {str(file)!r}: {error.strerror or error}.") from error


def main() -> None:
    """Runs the command line."""
    app()


if __name__ == "__main__":
    main()
