"""Bodies and heads: packing, padding and pairs change nothing but what they should."""

import pytest
import torch

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, pack
from adapterdistill.backbone.packed import joined
from adapterdistill.distill.multitask_kd.students import (
    AdapterBody,
    BiLstmBody,
    Body,
    MultitaskModel,
    TaskTexts,
    TransformerBody,
    attended,
    compare,
)
from tests.task_texts import pair_task, single_task

KINDS = ("adapter", "transformer", "bilstm")


def body_of(kind: str, encoder: Encoder, *, pairs: bool = True) -> Body:
    if kind == "adapter":
        return AdapterBody(encoder, BottleneckAdapter.new(2, 32, 4, seed=0))
    if kind == "transformer":
        return TransformerBody(encoder, num_layers=1, num_heads=2)
    return BiLstmBody(encoder, hidden_size=6, pairs=pairs, seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_reads_the_same_alone_and_among_others(tiny_encoder: Encoder, kind: str) -> None:
    tasks = [single_task(7), pair_task(6)]
    model = MultitaskModel(body_of(kind, tiny_encoder), tasks, seed=0)
    for place, task in enumerate(tasks):
        together = model.predict(task, place, batch_size=64)
        alone = model.predict(task, place, batch_size=1)
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        assert together.shape == (len(task), 2) and float(together.std(0).min()) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_the_body_is_shared_and_heads_are_not(tiny_encoder: Encoder, kind: str) -> None:
    task = single_task()
    model = MultitaskModel(body_of(kind, tiny_encoder), [task, task], seed=0)
    tokens = pack(task.ids)
    vectors = model.body(tokens, pairs=False)
    for place in (0, 1):
        expected = torch.nn.functional.linear(
            vectors, model.heads[place].weight, model.heads[place].bias
        )
        torch.testing.assert_close(model(tokens, place), expected)
    assert not torch.equal(model.heads[0].weight, model.heads[1].weight)


def test_the_bilstm_equals_a_plain_loop_over_one_text(tiny_encoder: Encoder) -> None:
    body = BiLstmBody(tiny_encoder, hidden_size=6, pairs=False, seed=0).double()
    text = single_task(1).ids[0]
    words = torch.nn.functional.layer_norm(tiny_encoder.weights.words[list(text)], (32,)).double()
    states = {}
    for suffix, order in (("", range(len(text))), ("_reverse", reversed(range(len(text))))):
        w, u, b, c = (getattr(body.lstm, name + suffix) for name in
                      ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"))  # fmt: skip
        h = cell = torch.zeros(6, dtype=torch.float64)
        for t in order:
            i, f, g, o = (w @ words[t] + u @ h + b + c).chunk(4)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            h = o.sigmoid() * cell.tanh()
            states[suffix, t] = h
    rows = torch.stack([torch.cat([states["", t], states["_reverse", t]])
                        for t in range(len(text))])  # fmt: skip
    weights = (rows.tanh() @ body.importance.weight[0] + body.importance.bias).softmax(0)
    expected = weights @ rows
    found = body.float()(pack([text]), pairs=False)[0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_attention_to_the_other_text_equals_a_loop_and_leaves_padding_out() -> None:
    states, other = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    there = torch.tensor([[True] * 5, [True, True, False, False, False]])
    found = attended(states, other, there)
    for n in range(2):
        real = other[n][there[n]]
        for t in range(3):
            weights = (real @ states[n, t] / 2).softmax(0)
            torch.testing.assert_close(found[n, t], weights @ real)


@pytest.mark.parametrize("kind", ["adapter", "transformer"])
def test_both_texts_of_a_pair_are_read_in_one_row(tiny_encoder: Encoder, kind: str) -> None:
    body = body_of(kind, tiny_encoder)
    texts = [(2, 9, 8, 3), (2, 7, 3), (2, 5, 3), (2, 4, 6, 7, 3)]
    rows = [(2, 9, 8, 3, 7, 3), (2, 5, 3, 4, 6, 7, 3)]
    found = body(pack(texts), pairs=True)
    torch.testing.assert_close(found, body(pack(rows), pairs=False))
    swapped = body(pack([texts[n] for n in (1, 0, 3, 2)]), pairs=True)
    assert not torch.allclose(found, swapped)


def test_a_long_pair_is_cut_where_the_encoder_ends() -> None:
    [row] = joined(pack([(2, 9, 8, 3), (2, 7, 6, 3)]), longest=6).input_ids.view(1, -1).tolist()
    assert row == [2, 9, 8, 3, 7, 6]


def test_a_pair_is_compared_as_written() -> None:
    u, v = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5])
    found = compare(torch.stack([u, v]))
    assert found.tolist() == [[1.0, -2.0, 3.0, 0.5, 2.0, 2.5, 3.0, -1.0]]


@pytest.mark.parametrize("kind", ["transformer", "bilstm"])
def test_a_model_of_one_task_starts_from_the_joint_one(tiny_encoder: Encoder, kind: str) -> None:
    tasks = [single_task(seed=1), pair_task()]
    joint = MultitaskModel(body_of(kind, tiny_encoder), tasks, seed=0)
    for place, task in enumerate(tasks):
        alone = MultitaskModel(body_of(kind, tiny_encoder, pairs=task.pairs), [task], seed=9)
        alone.start_from(joint, place)
        torch.testing.assert_close(alone.predict(task), joint.predict(task, place))


def test_parameters_leave_out_what_is_frozen(tiny_encoder: Encoder) -> None:
    model = MultitaskModel(body_of("adapter", tiny_encoder), [single_task()], seed=0)
    adapter = 2 * (2 * 32 * 4 + 4 + 32)
    assert model.num_parameters() == adapter + 32 * 2 + 2


def test_texts_that_do_not_fit_their_labels_are_refused() -> None:
    task = pair_task(4)
    with pytest.raises(ValueError, match="7 texts but 4 labels, where a row has 2"):
        TaskTexts(task.ids[:7], task.labels, pairs=True, num_outputs=2)
