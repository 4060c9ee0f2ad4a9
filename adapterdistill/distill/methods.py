"""The methods that a run may name in `training.method`: one line each."""

from adapterdistill.distill.adapter_distillation import DistilTeachers
from adapterdistill.distill.attention_distillation import DistilByAttention
from adapterdistill.distill.averaging import AverageTeachers
from adapterdistill.distill.conditional_distillation import Conditional
from adapterdistill.distill.meta_kd.method import MetaKd
from adapterdistill.distill.method import Method
from adapterdistill.distill.multitask_kd.method import MultitaskKd

METHODS: dict[str, Method] = {
    "averaged_teachers": AverageTeachers(),
    "adapter_distillation": DistilTeachers(),
    "attention_distillation": DistilByAttention(),
    "conditional": Conditional(),
    "multitask_kd": MultitaskKd(),
    "meta_kd": MetaKd(),
}

DEFAULT = "averaged_teachers"
"""The method that trains the student of stage 2, unless a run names another that does."""
