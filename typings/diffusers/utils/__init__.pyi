from typing import Any

from diffusers.utils import logging as logging

def set_weights_and_activate_adapters(model: Any, adapter_names: Any, weights: Any) -> None: ...
