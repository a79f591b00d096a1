"""A pretended second device: real numbers on the processor that refuse to meet tensors that are still "there".

It shows, on a machine without a GPU, whether code moves everything to where the model is. A tensor of the pretended
device says so by its `.device`, results of operations on it are there too, and an operation that mixes it with a tensor
of the processor (single numbers aside) fails, as it would on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

ELSEWHERE = torch.device("xla:0")  # a kind of device that PyTorch knows by name and has no code for in its own builds
MAY_MIX = {torch.ops.aten.copy_.default, torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default}
"""A GPU copies from the processor and takes its indices."""


class There(Tensor):
    """A tensor of the pretended device; `here` holds its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here, requires_grad=False):
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset()}
        return Tensor._make_wrapper_subclass(
            cls, here.shape, **layout, dtype=here.dtype, device=here.device, requires_grad=requires_grad
        )

    def __init__(self, here, requires_grad=False):
        self.here = here

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function == Tensor.device.__get__:
            return ELSEWHERE
        if function == Tensor.is_cpu.__get__:
            return False
        if function == Tensor.data.__set__:
            target, given = args
            assert isinstance(given, There) and given.shape == target.shape, (
                "the pretended device cannot reshape by .data"
            )
            target.here = given.here
            return None
        if function is Tensor.numpy:
            raise TypeError("a tensor of the pretended device has no numpy form: copy it to the processor first")
        if function is Tensor.tolist:
            return args[0].detach().here.tolist()
        with torch._C.DisableTorchFunctionSubclass():
            moved = _moved(function, args, kwargs)
            return function(*args, **kwargs) if moved is NotImplemented else moved

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        leaves = tree_flatten((args, kwargs or {}))[0]
        strangers = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, There) and leaf.dim()]
        if strangers and function not in MAY_MIX:
            shape = tuple(strangers[0].shape)
            raise RuntimeError(f"{function}: all tensors must be on one device; {shape} is still on the processor")
        args, kwargs = tree_map(_numbers, (args, kwargs or {}))
        result = function(*args, **kwargs)
        if function._schema.is_mutable and isinstance(leaves[0], There):
            return leaves[0]
        return tree_map(_there, result)


@contextmanager
def pretending(monkeypatch) -> Iterator[None]:
    """Make `.to(ELSEWHERE)` and `device=ELSEWHERE` work in the block."""
    # `detach` of a wrapper is not possible in inference mode; the two differ in speed only.
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    monkeypatch.setattr("farss.model.targets.PLAIN", (torch.nn.Parameter, There))
    overwrote = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Pretending():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrote)


class _Pretending(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if not any(issubclass(kind, There) for kind in types):
            moved = _moved(function, args, kwargs)
            if moved is not NotImplemented:
                return moved
        wanted = kwargs.get("device")
        if wanted is not None and torch.device(wanted).type == ELSEWHERE.type and function is not Tensor.to:
            return There(function(*args, **{**kwargs, "device": "cpu"}))
        return function(*args, **kwargs)


def _moved(function, args, kwargs):
    """The result of `.cpu()` and of a `.to` that names a device or another tensor; NotImplemented for all else."""
    if function is Tensor.cpu:
        return _Fetch.apply(args[0]) if isinstance(args[0], There) else args[0]
    if function is not Tensor.to:
        return NotImplemented
    values = (*args[1:], *kwargs.values())
    target = _named(values)
    if target is None:
        return NotImplemented
    dtypes = [v if isinstance(v, torch.dtype) else v.dtype for v in values if isinstance(v, (torch.dtype, Tensor))]
    x = args[0]
    if target.type == ELSEWHERE.type and not isinstance(x, There):
        x = _Bring.apply(x)
    elif target.type == "cpu" and isinstance(x, There):
        x = _Fetch.apply(x)
    return Tensor.to(x, dtypes[0]) if dtypes else x


def _named(values) -> torch.device | None:
    for value in values:
        if isinstance(value, Tensor):
            return ELSEWHERE if isinstance(value, There) else value.device
        if isinstance(value, (torch.device, str)):
            return torch.device(value)
    return None


def _numbers(x):
    return x.here if isinstance(x, There) else x


def _there(x):
    return There(x) if isinstance(x, Tensor) and not isinstance(x, There) else x


class _Bring(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return There(x.detach().clone())

    @staticmethod
    def backward(ctx, gradient):
        return _numbers(gradient)


class _Fetch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.here.clone()

    @staticmethod
    def backward(ctx, gradient):
        return _there(gradient)
