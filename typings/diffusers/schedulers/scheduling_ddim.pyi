from torch import Tensor

class DDIMSchedulerOutput:
    prev_sample: Tensor
    pred_original_sample: Tensor | None
    def __init__(self, prev_sample: Tensor, pred_original_sample: Tensor | None = None) -> None: ...
