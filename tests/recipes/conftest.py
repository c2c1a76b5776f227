"""The judge, the model and the small set that evaluation is tested with."""

from tests.evaluation.conftest import clip_folder, data, judge_folder, protocol, subject  # noqa: F401
