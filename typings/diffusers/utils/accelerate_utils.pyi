from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])

def apply_forward_hook(method: F) -> F: ...
