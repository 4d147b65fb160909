"""Export: the network that a spec names, and the pictures that its file is compared on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from exporters import TARGETS
from exporters.comparison import Pictures
from exporters.export_options import CURRENT, ExportOptions
from exporters.sources.base import IMAGENET_1K, Architecture, Network, Request
from harness.demo.embedded import demo_recipe
from harness.errors import HarnessError, unknown
from harness.exporting import network_loader, quantisation_target
from harness.labels import imagenet_wordnet_ids
from harness.preprocess import compile_tree
from harness.samples import unlabelled_from_data
from harness.sources.storage import read_text
from noise.base import Pipeline, Step
from noise.presets import pipeline_from_preset, preset_names

COMPARED_PICTURES = 16
DEFAULT_SIZE = 224
EMBEDDED = "embedded pictures"


@dataclass(frozen=True)
class ExportJob:
    """What a user wants written.

    Args:
        spec: SOURCE:NAME, a row of `exporters.MODELS`.
        arch: spec of the network whose weights a checkpoint holds.
        entry: key of the weights in a checkpoint that holds several.
        classes: names of the classes in the order of the outputs; their number alone where nobody knows the names.
        size: height and width of the input in pixels; 0 for what the weights were trained on. Of two sizes that are
            declared each comes with its own resize; another changes the resize in proportion.
        preprocess: a preset that is declared instead of what the source declares.
        data: pictures to compare on; "" for the embedded ones.
        target: row of `exporters.TARGETS`, which decides the version of ONNX's operators.
        opset: that version, where the target's is not wanted; else 0.
        exporter, bake, seed: see `exporters.export_options.ExportOptions`; the seed also draws random weights.
    """

    spec: str
    arch: str = ""
    entry: str = ""
    classes: tuple[str, ...] | int = 0
    size: int = 0
    preprocess: str = ""
    data: str = ""
    target: str = "ort-cpu"
    opset: int = 0
    exporter: str = CURRENT
    bake: bool = False
    seed: int = 0

    def options(self) -> ExportOptions:
        """How the file is written.

        Raises:
            HarnessError, ExportError: no such target, exporter or opset.
        """
        if self.target not in TARGETS:
            raise unknown("target", self.target, TARGETS)
        opset = self.opset or quantisation_target(self.target).opset
        return ExportOptions(opset, self.exporter, self.class_count, self.bake, self.seed)

    @property
    def class_count(self) -> int:
        """How many classes the user says there are; 0 where nothing is said."""
        return self.classes if isinstance(self.classes, int) else len(self.classes)


def network_from_job(job: ExportJob) -> Network:
    """The network with its weights, classes and preprocessing.

    Raises:
        HarnessError, ExportError: no such source, network or weights; a checkpoint without ``arch``, or with it what
            is no checkpoint; nothing to bake.
    """
    network = _loaded(job)
    pipeline = _pipeline(job, network)
    if job.bake and pipeline is None:
        raise HarnessError(
            f"--bake moves the normalisation into the graph; {job.spec} has none: name it with --preprocess"
        )
    return replace(
        network,
        about={"spec": job.spec, **network.about},
        classes=_classes(job, network),
        pipeline=pipeline,
        notes=(*network.notes, *_assumed(job, network)),
    )


def _loaded(job: ExportJob) -> Network:
    source, name = _parts(job.spec)
    request = Request(name, job.class_count, job.seed, entry=job.entry)
    if (source == "checkpoint") != bool(job.arch):
        raise HarnessError(
            f"--arch says whose weights a checkpoint holds: qharness export checkpoint:FILE --arch torchvision:NAME; "
            f"got {job.spec} with {f'--arch {job.arch}' if job.arch else 'no --arch'}"
        )
    if job.arch:
        kind, architecture = _parts(job.arch)
        if kind == source:
            raise HarnessError(f"--arch {job.arch}: a checkpoint is no network; expected torchvision:NAME or the like")
        blank = Request(architecture, seed=job.seed)
        request = replace(request, architecture=Architecture(job.arch, network_loader(kind), blank))
    return network_loader(source)(request)


def _classes(job: ExportJob, network: Network) -> tuple[str, ...] | None:
    """The names of the outputs: the user's, else the source's."""
    if not isinstance(job.classes, int):
        return job.classes
    return imagenet_wordnet_ids() if network.label_set == IMAGENET_1K else network.classes


def _assumed(job: ExportJob, network: Network) -> tuple[str, ...]:
    """What had to be assumed of a checkpoint, which says nothing of its preprocessing."""
    if not job.arch or job.preprocess or network.pipeline is None:
        return ()
    text = (
        f"the preprocessing is assumed to be that of the published weights {network.about['preprocessing_of']}; if "
        f"yours were trained otherwise, say so with --preprocess, or in the sidecar"
    )
    return (text,)


def _parts(spec: str) -> tuple[str, str]:
    source, colon, name = spec.partition(":")
    if not colon or not name:
        raise HarnessError(f"expected SOURCE:NAME, such as torchvision:resnet50; got {spec!r}")
    return source, name


def _pipeline(job: ExportJob, network: Network) -> Pipeline | None:
    """What is declared of the preprocessing, with the size that the user wants."""
    declared, tested = network.pipeline, network.tested
    if job.preprocess:
        if job.preprocess not in preset_names():
            raise unknown("preset", job.preprocess, preset_names())
        size = job.size or (DEFAULT_SIZE if declared is None else _size(declared))
        return pipeline_from_preset(job.preprocess, size=size)
    if declared is None or job.size == 0:
        return declared
    for known in (tested, declared):
        if known is not None and job.size == _size(known):
            return known
    crop, resize = _size(declared), declared.step_of("resize", "--size changes").params["size"]
    changed = declared.with_step(Step("crop", "centre", {"size": job.size}))
    return changed.with_step(Step("resize", "pillow", {"size": round(resize * job.size / crop)}))


def _size(pipeline: Pipeline) -> int:
    size: int = pipeline.step_of("crop", "an export needs").params["size"]
    return size


def pictures_for(network: Network, job: ExportJob) -> Pictures:
    """The pictures to compare on, as the network sees them before normalisation.

    Raises:
        HarnessError: no such data, or none of the first pictures can be read.
    """
    pipeline = network.pipeline or pipeline_from_preset("imagenet", size=job.size or DEFAULT_SIZE)
    head = Pipeline(tuple(step for step in pipeline.steps if step.stage not in ("normalise", "layout")))
    tree = compile_tree([head])
    found = unlabelled_from_data(job.data or demo_recipe().data, job.seed)
    samples = found.samples[:COMPARED_PICTURES]
    made = {sample.id: each for sample in samples for each in tree.walk_sample(sample, job.seed)}
    levels = [each.tensor for each in made.values() if each.tensor is not None]
    if not levels:
        raise HarnessError(
            f"none of {len(samples)} pictures of {found.source} can be read: {made[samples[0].id].error}"
        )
    unreadable = tuple(name for name, each in made.items() if each.tensor is None)
    compared = replace(found, samples=tuple(sample for sample in samples if sample.id not in unreadable))
    return Pictures(np.stack(levels), job.data or EMBEDDED, compared.fingerprint(), unreadable)


def classes_from_option(text: str) -> tuple[str, ...] | int:
    """A number of classes, or their names out of a file in UTF-8 with one on each line.

    Raises:
        HarnessError: neither.
    """
    if text.isdecimal():
        return int(text)
    if not Path(text).is_file():
        raise HarnessError(f"--classes takes a number, or a file with one name on each line; there is no file {text}")
    names = tuple(line.strip() for line in read_text(text).splitlines() if line.strip())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not names:
        raise HarnessError(f"{text} must name every class once; got {f'{twice!r} twice' if twice else 'no name'}")
    return names
