"""Export: a run's weights in the forms that other programs read, each compared with the run before it says ok."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from visloom import __version__
from visloom.config import dump
from visloom.durable import reason, refuse_existing
from visloom.errors import ConfigError, DataError, UsageError, VisloomError
from visloom.sample import Sample
from visloom.source import Source

if TYPE_CHECKING:
    from visloom.saved import Saved


def export_state_dict(saved: Saved, out: Path, *, original: bool = False) -> list[tuple[str, object]]:
    """Write the named tensors of a run: a .pth file in mmcv's layout ({"meta", "state_dict"}) or a .safetensors one.

    original: under the names of the system that the task's network comes from.
    Returns: rows for people.
    Raises:
        UsageError: `out` ends otherwise.  ConfigError: it exists or cannot be written, or no converter knows the task.
    """
    if out.suffix not in (".pth", ".pt", ".safetensors"):
        raise UsageError(f"a state-dict goes into a .pth or .safetensors file, got {out}")
    tensors = {name: t.detach().cpu().contiguous() for name, t in saved.task.state_dict().items()}
    name = ""
    if original:
        from visloom.convert import common

        module = common.converter_of(saved.spec)
        tensors, name = module.original(saved.spec, tensors), module.NAMES[0]
    place = fresh(out)
    temporary = place.with_name(f".{place.name}.tmp-{os.getpid()}")
    try:
        if out.suffix == ".safetensors":
            from visloom.tensorfile import pack, write

            with temporary.open("wb") as file:
                write(pack(tensors, "export"), file.write)  # type: ignore[arg-type]
        else:
            meta: dict[str, Any] = {"CLASSES": list(saved.spec.classes), "step": saved.step}
            torch.save({"meta": meta, "state_dict": tensors}, temporary)
        os.replace(temporary, place)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return [
        ("written", out),
        ("tensors", f"{len(tensors):,}" + (f", by the names of {name}" if name else "")),
    ]


def export_network(saved: Saved, out: Path, to: str, *, size: int | None = None) -> list[tuple[str, object]]:
    """Write a run's network as ONNX (`.onnx`) or as a torch.export program (`.pt2`), and compare it with the run.

    Its input "image" is (B, C, H, W) float32, normalised as the run's task does; B is free. Its output are the
    network's: logits (B, K), or of each head by its name where the task's `exportable()` has several `outputs`.
    Classes, normalisation and transforms stand beside it, in its metadata.

    size: side of the pictures, where the run's transforms do not tell.
    Returns: rows for people.
    Raises:
        UsageError: `out` ends otherwise, or the size of the pictures is not known.
        ConfigError: the task has no single network; it cannot be exported; its answers differ (nothing is kept).
    """
    ending = {"onnx": ".onnx", "torch-export": ".pt2"}[to]
    if out.suffix != ending:
        raise UsageError(f"--to {to} writes a {ending} file, got {out}")
    net = getattr(saved.task, "net", None)
    make: Callable[[], nn.Module] | None = getattr(saved.task, "exportable", None)
    net = net if make is None else make()
    if not isinstance(net, torch.nn.Module) or not saved.spec.classes:
        raise ConfigError(
            f"{type(saved.spec).__name__} is exported as a state-dict only: it is not one network"
        )
    place = fresh(out)
    sides = (size, size) if size is not None else picture_size(saved)
    example = _images(saved, 2, sides)
    temporary = place.with_name(f".{os.getpid()}-{place.name}")
    try:
        net = net.float().eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own code
            run = (_to_onnx if to == "onnx" else _to_program)(net, example, temporary, description(saved))
        worst = max(_difference(net, run, _images(saved, count, sides)) for count in (1, 3))
        if not worst <= TOLERANCE:
            raise ConfigError(
                f"the exported network answers otherwise: it differs by {worst:.1e} of the largest logit"
            )
        os.replace(temporary, place)
    except (VisloomError, OSError):
        raise
    except Exception as error:  # exporters fail in many ways; the first line says which operation it was
        raise ConfigError(
            f"{type(net).__name__} cannot be exported: {str(error).strip().partition(chr(10))[0]}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return [
        ("written", f"{out}, {place.stat().st_size / 1e6:,.1f} MB"),
        ("input", f"image, (B, {example.shape[1]}, {sides[0]}, {sides[1]}) float32, normalised"),
        ("compared", f"with the run on 1 and 3 pictures: differs by {worst:.1e} of the largest logit"),
    ]


TOLERANCE = 1e-4
"""Largest difference of an exported network's logits, relative to the largest logit."""


def description(saved: Saved) -> str:
    """What an exported network needs to be used, as JSON: the run, and where its weights are from."""
    run = replace(saved.run, task=saved.spec, init={})
    return json.dumps({"run": dump(run), "step": saved.step, "weights": saved.which, "visloom": __version__})


def picture_size(saved: Saved) -> tuple[int, int]:
    """Height and width that the run's evaluation gives every picture. Raises UsageError if it does not."""
    first = next(iter(saved.run.evals.values()), None)
    leaf = first.stream.leaves()[0] if first is not None else None
    known = leaf.source.picture_size() if leaf is not None and isinstance(leaf.source, Source) else None
    found = set()
    for shape in [known] if known is not None else [(301, 407), (512, 333)]:
        sample = Sample("size", np.zeros((*shape, 3), np.uint8))
        for transform in leaf.transform if leaf is not None else ():
            sample = transform(sample, 0)
        found.add(tuple(sample.size))
    if len(found) != 1:
        raise UsageError("the run's transforms leave pictures as large as they come: say --size N")
    height, width = found.pop()
    return int(height), int(width)


def _images(saved: Saved, count: int, sides: tuple[int, int]) -> Tensor:
    """Normalised pictures of noise: (count, C, H, W)."""
    channels = getattr(saved.spec, "channels", 3)
    return torch.randn(count, channels, *sides, generator=torch.Generator().manual_seed(count))


Answer = Callable[[Tensor], Any]
"""Logits of pictures: a tensor, or one for each head."""


def _to_onnx(net: nn.Module, example: Tensor, place: Path, about: str) -> Answer:
    onnx, _ = require_onnx()
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        net, (example,), dynamo=True, input_names=["image"], output_names=list(getattr(net, "outputs", ("logits",))),
        dynamic_shapes=({0: batch},), verbose=False,
    )  # fmt: skip
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {"visloom": about})
    onnx.checker.check_model(model)
    onnx.save(model, str(place))
    return OnnxNet(place)


def _to_program(net: nn.Module, example: Tensor, place: Path, about: str) -> Answer:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(net, (example,), dynamic_shapes=({0: batch},))
    torch.export.save(program, str(place), extra_files={"visloom.json": about})
    answer: Answer = torch.export.load(str(place)).module()
    return answer


def _difference(net: nn.Module, other: Answer, images: Tensor) -> float:
    with torch.no_grad():
        pairs = list(zip(_several(net(images)), _several(other(images)), strict=True))
    if any(expected.shape != found.shape for expected, found in pairs):
        return float("inf")
    return max(float((e - f).abs().max() / e.abs().max().clamp_min(1e-12)) for e, f in pairs)


def _several(answer: Any) -> Sequence[Tensor]:
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


def require_onnx() -> tuple[Any, Any]:
    """The modules onnx and onnxruntime. Raises ConfigError if they are not installed."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - what torch's exporter is written with
    except ImportError as error:
        raise ConfigError(f"this needs {error.name}: pip install 'visloom[onnx]'") from error
    return onnx, onnxruntime


class OnnxNet(nn.Module):
    """A network that an ONNX file holds, on the CPU: (B, C, H, W) -> logits, of each head where it has several."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError(
                "predicting with an ONNX file needs onnxruntime: pip install 'visloom[onnx]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has exceptions of its own for each kind of damage
            raise ConfigError(
                f"{file} is no ONNX file that can be run: {str(error).partition(chr(10))[0]}"
            ) from error
        self._input = self._session.get_inputs()[0].name
        self._shape = self._session.get_inputs()[0].shape  # (B, C, H, W), a name where any length goes

    @property
    def about(self) -> str:
        """What `description` wrote; "" in a file of another program."""
        return str(self._session.get_modelmeta().custom_metadata_map.get("visloom", ""))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it answers."""
        return tuple(output.name for output in self._session.get_outputs())

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits of normalised images. Raises DataError for images of another size than the file was made for."""
        if any(isinstance(want, int) and want != got for want, got in zip(self._shape[1:], image.shape[1:])):
            raise DataError(
                f"the ONNX file takes pictures of {'x'.join(map(str, self._shape[2:]))} (height x width) and got "
                f"{image.shape[2]}x{image.shape[3]}: resize them, export again with another --size, or predict with "
                "the run itself"
            )
        array = image.detach().cpu().contiguous().numpy()
        found = tuple(torch.from_numpy(each) for each in self._session.run(None, {self._input: array}))
        return found[0] if len(found) == 1 else found


def fresh(out: Path) -> Path:
    """Return an absolute path at which nothing is yet, its folder made. Raises UsageError, ConfigError."""
    refuse_existing(out)
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {reason(error)}") from error
    return out.absolute()
