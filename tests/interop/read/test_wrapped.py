"""Checkpoints as trainers wrap them: what is taken, what is said, and that nothing in them runs."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import defaultdict, deque
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from versatile_diffusion.interop.read.pickled import TensorsOnly
from versatile_diffusion.interop.read.tensors import open_tensors

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2), "b.weight": torch.zeros(3, 3)}
LARGER = {f"layers.{k}": torch.full((2,), float(k)) for k in range(5)}


def times(state: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    return {name: factor * value for name, value in state.items()}


def saved(folder: Path, value: Any, old: bool = False) -> Path:
    torch.save(value, folder / "x.ckpt", _use_new_zipfile_serialization=not old)
    return folder / "x.ckpt"


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("value", "note"),
    [
        ({"checkpoint": {"model": {"module": STATE}}, "epoch": 3}, "using the weights in checkpoint.model.module"),
        ({"state_dict": STATE, "optimizer_states": [{"state": {0: {"exp_avg": LARGER["layers.1"]}}}]}, "in state_dict"),
        ({"net": STATE, "optimizer": {"state": LARGER}}, "using the weights in net"),
        ({"model": times(STATE, 9), "model_ema": STATE}, "using the weights in model_ema, not those in model"),
        (
            {"params": times(STATE, 9), "params_ema": {**STATE, "more": torch.ones(1)}},
            "params_ema, not those in params",
        ),
        ({"state_dict": STATE, "ema": {"a.bias": torch.zeros(2)}}, "using the weights in state_dict, not those in ema"),
        ({"schema": STATE, "other": {"x": torch.ones(1)}}, "using the weights in schema"),
        ({"average": {"module": {f"module.{n}": t for n, t in STATE.items()}}, "w": STATE}, "average.module"),
    ],
)
def test_the_state_dict_that_is_meant(tmp_path: Path, value: Any, note: str, old: bool) -> None:
    tensors = open_tensors(saved(tmp_path, value, old)).unwrapped()
    assert set(tensors) - {"more"} == set(STATE)
    assert all(torch.equal(tensors[name], STATE[name]) for name in STATE)
    assert note in "; ".join(tensors.notes)


def test_two_that_are_alike_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"several state dicts of 3 tensors, student and teacher; save one"):
        open_tensors(saved(tmp_path, {"student": STATE, "teacher": times(STATE, 2)}))


@pytest.mark.parametrize(
    "prefixes",
    [("module.",), ("_orig_mod.",), ("module._orig_mod.",), ("module.", ""), ("_fsdp_wrapped_module.", "module.")],
)
def test_what_wrappers_add_to_names(tmp_path: Path, prefixes: tuple[str, ...]) -> None:
    state = {prefixes[k % len(prefixes)] + name: value for k, (name, value) in enumerate(STATE.items())}
    tensors = open_tensors(saved(tmp_path, state)).unwrapped()
    assert set(tensors) == set(STATE)
    assert "from the names" in tensors.notes[0]
    twice = saved(tmp_path, state | STATE)
    if "" not in prefixes:
        with pytest.raises(ValueError, match="are both"):
            open_tensors(twice).unwrapped()


class Odd(dict):
    """A dict of a trainer's own."""


class Other:
    def __init__(self) -> None:
        self.inside = {"x": torch.ones(3)}


def wild() -> dict[str, Any]:
    loop: list[Any] = []
    loop.append(loop)
    return {
        "state_dict": STATE,
        "numbers": [np.float64(3), np.arange(3), np.random.default_rng(0)],
        "paths": {PurePosixPath("/a"): Path("b")},
        "odd": Odd(a=1, b=Odd()),
        "other": Other(),
        "kinds": [Other, Odd.__init__, len, print, {1, 2}, frozenset([3]), deque([1]), defaultdict(list, a=[1])],
        "deep": {(1, 2): {3: (4, 5)}},
        "loop": loop,
        "sparse": torch.eye(3).to_sparse(),
        "complex": 3j,
        "bytes": b"\xff",
    }


@pytest.mark.parametrize("old", [False, True])
def test_other_objects_are_left_out(tmp_path: Path, old: bool) -> None:
    tensors = open_tensors(saved(tmp_path, wild(), old))
    assert set(tensors) == set(STATE)
    assert "ignored" in "; ".join(tensors.notes)


class Runs:
    def __init__(self, function: Any, *given: Any) -> None:
        self.what = function, given

    def __reduce__(self) -> Any:
        return self.what


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("where", [eval, exec, __import__("os").system, __import__("subprocess").call])
def test_what_would_run_code_is_refused_and_not_run(tmp_path: Path, where: Any, old: bool) -> None:
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w')" if where in (eval, exec) else f"touch {mark}"
    with pytest.raises(ValueError, match=r"x\.ckpt cannot be read as weights.*runs code; do not use this file"):
        open_tensors(saved(tmp_path, {"state_dict": STATE, "x": Runs(where, code)}, old))
    assert not mark.exists()


def test_no_other_function_is_called_either(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for function, given in ((np.save, (str(mark), 1)), (torch.save, (1, str(mark))), (Path.touch, (mark,))):
        assert set(open_tensors(saved(tmp_path, {"w": STATE, "x": Runs(function, *given)}))) == set(STATE)
    assert not list(tmp_path.glob("mark*"))


def test_nothing_that_was_made_can_be_changed() -> None:
    """The state of an object is not set: a pickle could change functions that all files are read by."""
    opened = pickle.PROTO + b"\x02" + b"ctorch._utils\n_rebuild_tensor_v2\n" + b"}X\x01\x00\x00\x00aK\x01sb."
    found = TensorsOnly(io.BytesIO(opened)).load()
    assert not hasattr(found, "a")


@pytest.mark.timeout(60)
def test_keys_whose_hash_takes_for_ever() -> None:
    """Tuples of tuples, thirty deep, twice each, as a key."""
    opened = b"\x80\x02}K\x01" + b"2\x86" * 60 + b"K\x01s."
    assert TensorsOnly(io.BytesIO(opened)).load() == {}


def test_programs_and_other_zips_are_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "program.pt"))
    with pytest.raises(ValueError, match=r"program\.pt.*a TorchScript program"):
        open_tensors(tmp_path / "program.pt")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ValueError, match="a zip file, but not from torch"):
        open_tensors(tmp_path / "other.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"contains no state dict; ignored torch\.nn\.modules\.linear\.Linear"):
        open_tensors(tmp_path / "whole.pt")


def test_parameters_and_dtypes(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int16, torch.bool, torch.float8_e4m3fn)
    state = {str(kind): torch.tensor([0, 1, 1]).to(kind) for kind in kinds}
    state["parameter"] = torch.nn.Parameter(torch.ones(2, 3))
    for old in (False, True):
        tensors = open_tensors(saved(tmp_path, state, old))
        assert {name: (tensors[name].dtype, tensors[name].tolist()) for name in state} == {
            name: (value.dtype, value.tolist()) for name, value in state.items()
        }
