"""The rows of the transfer table, in the order of the report."""

from adapterdistill.bench.transfer import methods
from adapterdistill.bench.transfer.methods import Method, Setting

_TEACHERS = frozenset({"teachers"})
_TEACHERS_AND_OWN = frozenset({"teachers", "own"})
_ADAPTER_RATES = (2e-4, 5e-4, 1e-3)

OWN = "own"
OURS = "distillation"
TEACHER_SETTING = Setting(learning_rate=1e-3, steps=100)
"""A teacher has all its rows, so no step count is too many; one setting for all of them."""
TEACHER_SEED = 0
POOL_RATE = 1e-3
POOL_STEPS_PER_TENANT = 20
POOL_ROWS_PER_FAQ = 40

_ALL = (
    Method("tfidf", "TF-IDF", "4", methods.tfidf, needs_queries=False),
    Method("frozen", "Frozen encoder", "4", methods.frozen, needs_queries=False),
    Method(
        OWN, "Own adapter", "4", methods.own_adapter,
        rates=_ADAPTER_RATES, max_steps=60, step_cost=1.0,
    ),
    Method(
        "mean", "Mean of teachers' outputs", "4", methods.teachers_mean,
        needs=_TEACHERS, needs_queries=False,
    ),
    Method(
        "average", "Weight average of teachers", "4", methods.weight_average,
        needs=_TEACHERS, needs_queries=False,
    ),
    Method(
        "fusion", "AdapterFusion", "4", methods.adapter_fusion,
        needs=_TEACHERS_AND_OWN, rates=(2e-5, 5e-5, 2e-4), max_steps=60, step_cost=1.6,
    ),
    Method(
        "composition", "Composition that the student imitates", "2", methods.composition,
        needs=_TEACHERS_AND_OWN, step_cost=1.6, ablation=True,
    ),
    Method(
        OURS, "AdapterDistillation", "5", methods.adapter_distillation,
        needs=_TEACHERS_AND_OWN, rates=(1e-3, 2e-3, 4e-3), max_steps=60, step_cost=1.6,
        needs_queries=False,
    ),
    Method(
        "attention", "AdapterDistillation with attention trained", "4",
        methods.attention_distillation,
        needs=_TEACHERS_AND_OWN, rates=_ADAPTER_RATES, max_steps=60, step_cost=2.6, ablation=True,
    ),
    Method(
        "full_tuning", "Full fine-tuning", "4", methods.full_tuning,
        rates=(2e-5, 5e-5, 1e-4), max_steps=60, step_cost=2.5,
    ),
    Method(
        "pooled", "Pooled data, then own rows", "4", methods.pooled_data,
        needs=frozenset({"base"}), rates=_ADAPTER_RATES, max_steps=60, step_cost=1.0,
    ),
    Method(
        "shuffled_teachers", "Control: teachers with shuffled weights", "3",
        methods.shuffled_teachers,
        needs=_TEACHERS_AND_OWN, step_cost=1.5, control=True, tuned_as=OURS,
    ),
    Method(
        "permuted_teachers", "Control: teachers of permuted labels", "3",
        methods.adapter_distillation,
        needs=frozenset({"permuted", "own"}), step_cost=1.5, control=True, tuned_as=OURS,
    ),
)  # fmt: skip

# Ingredients of other cells; never rows of the table.
_PARTS = (
    Method(
        "permuted_labels", "Teacher of permuted labels", "4", methods.permuted_labels,
        step_cost=1.0,
    ),
    Method(
        "pooled_base", "Pooled data", "4", methods.pooled_base,
        needs=frozenset({"pool"}), step_cost=1.0, needs_queries=False,
    ),
)  # fmt: skip

TABLE = {method.name: method for method in _ALL}
METHODS = TABLE | {method.name: method for method in _PARTS}

VERDICT = "verdict"
"""Not a method: own or distilled adapter, by the verdict on held-out rows."""
LABELS = {name: method.label for name, method in TABLE.items()} | {
    VERDICT: "AdapterDistillation or own, by the verdict on held-out rows"
}

REFERENCES = ("full_tuning", "pooled")
"""Costly, so run at few k."""
CONTROLS = tuple(method.name for method in _ALL if method.control)
