"""Plugin of mypy: the call of a torch module returns what its `forward` returns.

torch declares the call of every module as Any, which would hide the types of all that is computed from it. Modules
without a declared result stay Any, but for `nn.Sequential`, which here always ends in a layer that returns a tensor.
"""

from __future__ import annotations

from collections.abc import Callable

from mypy.plugin import MethodContext, Plugin
from mypy.types import AnyType, CallableType, Instance, Type, get_proper_type

MODULE = "torch.nn.modules.module.Module"
SEQUENTIAL = "torch.nn.modules.container.Sequential"
TENSOR = "torch.Tensor"
CALL = ".__call__"


class Modules(Plugin):
    """Looks up the result of `forward` for calls of modules."""

    def get_method_hook(self, fullname: str) -> Callable[[MethodContext], Type] | None:
        """Return the hook for calls of instances."""
        return result_of_call if fullname.endswith(CALL) else None


def result_of_call(context: MethodContext) -> Type:
    """Return the declared result of `forward`, or what mypy found if there is none."""
    module = get_proper_type(context.type)
    if not isinstance(module, Instance) or not module.type.has_base(MODULE):
        return context.default_return_type
    forward = module.type.get("forward")
    declared = None if forward is None else get_proper_type(forward.type)
    result = get_proper_type(declared.ret_type) if isinstance(declared, CallableType) else None
    if result is not None and not isinstance(result, AnyType):
        return result
    if module.type.has_base(SEQUENTIAL):
        return context.api.named_generic_type(TENSOR, [])
    return context.default_return_type


def plugin(version: str) -> type[Plugin]:
    """Entry point of mypy."""
    return Modules
