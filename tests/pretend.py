"""A GPU that is not there: tensors say which device they are on, and calls that mix devices fail as on a real one.

`with PretendGpu() as gpu:` intercepts every call of torch. Tensors that were sent to "cuda" carry a mark, say so when
they are asked for their device, and pass it on to results; all of them lie on the CPU in truth. What a GPU refuses is
refused (operands of two devices, `numpy()`), and what makes the host wait for it is counted (`gpu.waits`).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode, resolve_name

CUDA = torch.device("cuda", 0)

_SENDERS = {"to", "cuda", "cpu"}
_WAITERS = {
    *("item", "tolist", "__bool__", "__int__", "__float__", "__index__"),
    *("nonzero", "unique", "masked_select", "argwhere"),  # how long the answer is
}
_MAY_MIX = {"copy_", "__setitem__", "__getitem__", "index_put_", "set_", "__set__", "data", "grad", "to"}


def on_gpu(tensor: Tensor) -> bool:
    return getattr(tensor, "pretend_gpu", False)


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, list | tuple):
        for part in found:
            yield from _tensors(part)
    elif isinstance(found, dict):
        yield from _tensors(list(found.values()))


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


class PretendGpu(TorchFunctionMode):
    """waits: where the host asked a tensor of the GPU for its value, by line of Visloom's code."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._backward = False

    def __enter__(self) -> Self:
        generator, copied = torch.Generator, nn.Parameter.__deepcopy__

        def copy_marked(parameter: nn.Parameter, memo: dict[int, Any]) -> nn.Parameter:
            new: nn.Parameter = copied(parameter, memo)
            new.pretend_gpu = on_gpu(parameter)  # type: ignore[attr-defined]
            return new

        grouped = Optimizer._group_tensors_by_device_and_dtype  # in C++, by the true device

        def group_by_mark(lists: list[list[Tensor]], with_indices: bool = False) -> dict[Any, Any]:
            groups = grouped(lists, with_indices).items()
            return {(found[0][0][0].device, dtype): found for (_, dtype), found in groups}

        with ExitStack() as stack:  # what does not go by way of `__torch_function__`
            stack.enter_context(patch.object(torch, "Generator", lambda device="cpu": generator("cpu")))
            stack.enter_context(patch.object(nn.Parameter, "__deepcopy__", copy_marked))
            stack.enter_context(
                patch.object(Optimizer, "_group_tensors_by_device_and_dtype", staticmethod(group_by_mark))
            )
            super().__enter__()
            self._patches = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._patches.close()

    def send(self, module: nn.Module) -> nn.Module:
        """Mark all parameters and buffers of a module, as `module.to("cuda")` would move them."""
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.pretend_gpu = True  # type: ignore[attr-defined]
        return module

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        owner = resolve_name(func) or ""
        if name == "__get__":
            return self._property(func, args)
        given = list(_tensors(args[0] if name == "__deepcopy__" else (args, kwargs)))
        here = [on_gpu(t) for t in given]
        if name in _SENDERS and given:
            return self._sent(name, args, kwargs)
        if name == "numpy" and any(here):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if (name in _WAITERS and any(here)) or (name == "__getitem__" and any(here) and _by_mask(args)):
            self.waits.append(_line())
        self._check_mixed(name, owner, args, given, here)
        asked = kwargs.get("device")
        if _is_gpu(asked):
            kwargs["device"] = torch.device("cpu")
        before, self._backward = self._backward, self._backward or name in ("backward", "grad")
        try:
            result = func(*args, **kwargs)
        finally:
            self._backward = before
        marked = _is_gpu(asked) if asked is not None else any(here)
        for tensor in _tensors(result):
            if not any(tensor is one for one in given):
                tensor.pretend_gpu = marked  # type: ignore[attr-defined]
        return result

    def _property(self, func: Any, args: tuple[Any, ...]) -> Any:
        owner = func.__self__
        tensor = args[0]
        if owner is Tensor.device:
            return CUDA if on_gpu(tensor) else torch.device("cpu")
        if owner is Tensor.is_cuda:
            return on_gpu(tensor)
        if owner is Tensor.is_cpu:
            return not on_gpu(tensor)
        value = func(*args)
        for part in _tensors(value):
            part.pretend_gpu = on_gpu(tensor)  # type: ignore[attr-defined]
        return value

    def _sent(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor = args[0]
        target = on_gpu(tensor)
        rest: list[Any] = []
        if name != "to":
            target = name == "cuda"
        for value in args[1:]:
            if isinstance(value, Tensor):
                target = on_gpu(value)
                rest.append(value.dtype)
            elif isinstance(value, str | torch.device):
                target = _is_gpu(value)
            elif not isinstance(value, bool):
                rest.append(value)
        if kwargs.get("device") is not None:
            target = _is_gpu(kwargs["device"])
        kwargs.pop("device", None)
        kwargs.pop("non_blocking", None)
        if on_gpu(tensor) and not target:
            self.waits.append(_line())
        out = tensor.to(*rest, **kwargs) if rest or kwargs else tensor
        if out is tensor and target != on_gpu(tensor):
            out = tensor.clone()
        if out is not tensor:
            out.pretend_gpu = target
        return out

    def _check_mixed(
        self, name: str, owner: str, args: tuple[Any, ...], given: list[Tensor], here: list[bool]
    ) -> None:
        if self._backward or not any(here) or all(here):
            return
        other = [t for t, gpu in zip(given, here, strict=True) if not gpu and t.dim() > 0]
        if not other or (name in _MAY_MIX and (name == "copy_" or on_gpu(args[0]))):
            return
        shapes = [f"{'cuda' if gpu else 'cpu'} {tuple(t.shape)}" for t, gpu in zip(given, here, strict=True)]
        raise RuntimeError(
            f"{owner or name}: expected all tensors on the same device, got {', '.join(shapes)}"
        )


def _by_mask(args: tuple[Any, ...]) -> bool:
    keys = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(k, Tensor) and k.dtype in (torch.bool, torch.uint8) and k.dim() > 0 for k in keys)


def _line() -> str:
    """Where in Visloom's code this happens."""
    for frame in reversed(traceback.extract_stack()):
        if "/visloom/" in frame.filename and "/tests/" not in frame.filename:
            return f"{frame.filename.rpartition('/visloom/')[2]}:{frame.lineno}: {frame.line}"
    return "outside"
