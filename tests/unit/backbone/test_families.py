"""Every family against transformers' own models: adapters, mixed batches, chosen tokens, training.

The models are small and random. transformers runs them row by row, with an adapter put in by hooks.
"""

import json
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import AutoModel

from adapterdistill.adapters import AdapterStack, BottleneckAdapter
from adapterdistill.backbone import Encoder, load_encoder, pack
from adapterdistill.backbone.layer import FrozenLayer
from adapterdistill.backbone.packed import ChosenTokens
from adapterdistill.backbone.trainable import TrainableEncoder, thinner
from adapterdistill.distill.adapter_distillation import distillation_of, imitation_rows
from adapterdistill.distill.objective import OwnAdapter
from adapterdistill.distill.training import Schedule, train
from adapterdistill.errors import EncoderError
from tests.separable_tenant import separable_rows
from tests.tiny_encoders import VARIANTS, random_adapter, random_rows, save_tiny_encoder

LENGTHS = [5, 2, 9, 5, 1, 40]

_LAST_NORM = {
    "distilbert": "output_layer_norm",
    "albert": "full_layer_layer_norm",
    "nomic_bert": "post_mlp_layernorm",
    "gte": "post_mlp_layernorm",
}
"""What transformers calls a layer's last LayerNorm; elsewhere it is output.LayerNorm."""


def loaded(folder: Path, family: str) -> Encoder:
    return load_encoder(str(save_tiny_encoder(folder, family=family, seed=3)), dtype="float32")


@pytest.fixture(scope="module", params=VARIANTS)
def variant(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Encoder]:
    folder = tmp_path_factory.mktemp("variant")
    return request.param, folder, loaded(folder, request.param)


def put_in(
    model: Any, family: str, delta: Callable[[int, Tensor], Tensor], *, num_layers: int
) -> None:
    """Hook an adapter into a transformers model, by the published contract of its kind.

    Post-LayerNorm: x = LN(f + a) and the layer gives LN(f + a + delta(x)). Pre-LayerNorm:
    x = f + a and the layer gives f + a + delta(x).
    """
    layers = cycle(range(num_layers))  # the hooks run in the layers' order

    def after_norm(norm: torch.nn.LayerNorm, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        added = delta(next(layers), output[0])[None]
        return torch.nn.functional.layer_norm(
            inputs[0] + added, output.shape[-1:], norm.weight, norm.bias, norm.eps
        )

    def after_layer(_layer: Any, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + delta(next(layers), output[0])[None]

    if family == "modernbert":
        for layer in model.layers:
            layer.register_forward_hook(after_layer)
        return
    last = _LAST_NORM.get(family, "output.LayerNorm")
    for name, module in model.named_modules():
        if name.endswith(last) and "attention" not in name:
            module.register_forward_hook(after_norm)


def test_an_adapter_acts_where_the_contract_says(variant: tuple[str, Path, Encoder]) -> None:
    name, folder, encoder = variant
    adapter = random_adapter(encoder, seed=1, scale=0.2)
    model = AutoModel.from_pretrained(folder).eval()
    put_in(model, VARIANTS[name][0], adapter, num_layers=encoder.num_layers)
    for row in random_rows([9, 1, 40]):
        bare = encoder.hidden(pack([row]))
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([row])).last_hidden_state[0]
            found = encoder.hidden(pack([row]), adapter)
        assert float((expected - bare).abs().max()) > 0.1
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_mixed_batch_equals_each_adapter_alone(variant: tuple[str, Path, Encoder]) -> None:
    encoder = variant[2]
    adapters = [
        random_adapter(encoder, seed=n, bottleneck_size=size, scale=0.2)
        for n, size in enumerate((3, 8))
    ]
    rows, slots = random_rows(LENGTHS), [0, 1, -1, 1, 0, 1]
    tokens = pack(rows)
    mixed = AdapterStack.of(adapters).mixed(torch.tensor(slots), tokens)
    found = encoder.hidden(tokens, mixed)
    for index, (row, slot) in enumerate(zip(rows, slots, strict=True)):
        alone = encoder.hidden(pack([row]), adapters[slot] if slot >= 0 else None)
        torch.testing.assert_close(found[tokens.row_of_token == index], alone, rtol=0, atol=2e-5)


def test_chosen_tokens_compute_what_they_do_among_all(variant: tuple[str, Path, Encoder]) -> None:
    encoder = variant[2]
    rows = random_rows([9, 9, 24])
    tokens = pack(rows)
    h = torch.randn(42, 32, generator=torch.Generator().manual_seed(0))
    layer = FrozenLayer(1, encoder.weights)
    chosen = ChosenTokens(torch.tensor([0, 3, 8, 9, 10, 17, 18, 25, 41]), ((2, 3, 9), (1, 3, 24)))
    found = layer.residual_of(h, tokens, chosen, to_all=True)
    expected = layer.residual(h, tokens)[chosen.index]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    every = ChosenTokens(torch.arange(42), ((2, 9, 9), (1, 24, 24)))
    found = layer.residual_of(h, tokens, every, to_all=False)
    torch.testing.assert_close(found, layer.residual(h, tokens), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "family", ["camembert", "electra", "albert", "nomic_bert", "gte", "deberta-v2", "modernbert"]
)
def test_training_and_distilling_run(family: str, tmp_path: Path) -> None:
    encoder = loaded(tmp_path, family)
    rows = separable_rows(3, seed=1)
    own = BottleneckAdapter.new(encoder.num_layers, 32, 6, seed=0)
    schedule = Schedule(max_steps=10, learning_rate=5e-3, batch_size=24)
    found = train(OwnAdapter(encoder, own), rows, schedule, seed=0)
    assert found.losses[-1] < found.losses[0]
    teachers = [random_adapter(encoder, seed=seed, scale=0.2) for seed in range(3)]
    objective = distillation_of(encoder, teachers, rows, own=None, bottleneck_size=6, seed=0)
    goal = encoder.embed_ids(rows.ids, objective.composition)

    def missed() -> float:
        return 1 - float((encoder.embed_ids(rows.ids, objective.student) * goal).sum(-1).mean())

    start = missed()
    train(objective, imitation_rows(encoder, rows)[0], schedule, seed=0)
    assert missed() < start


def test_trainable_copies_and_whole_students_give_what_the_encoder_gives(
    variant: tuple[str, Path, Encoder],
) -> None:
    encoder = variant[2]
    tokens = pack(random_rows([5, 3, 9]))
    expected = encoder.hidden(tokens)
    copy = TrainableEncoder(encoder, frozen={"words"})
    torch.testing.assert_close(copy.cast().hidden(tokens), expected, rtol=0, atol=2e-5)
    copy.cast().hidden(tokens).square().sum().backward()
    assert all(part.grad is not None for part in copy.parts)
    heads = encoder.weights.num_heads
    whole = thinner(encoder, num_layers=encoder.num_layers, num_heads=heads)
    torch.testing.assert_close(whole.hidden(tokens), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", ["bert", "albert", "gte", "deberta-v2", "modernbert"])
def test_a_thinner_student_keeps_whole_units_of_the_ffn(family: str, tmp_path: Path) -> None:
    encoder = loaded(tmp_path, family)
    thin = thinner(encoder, num_layers=1, num_heads=2).weights
    whole = thinner(encoder, num_layers=1, num_heads=4).weights
    assert thin.layers[0].down_weight.shape == (32, 32)
    width = thin.layers[0].up_weight.shape[0]
    assert width == (64 if thin.gated else 32)
    # Each unit that was kept is one of the whole layer's, with its gate.
    rows = thin.layers[0].up_weight.view(-1, 32, 32)
    for unit in range(32):
        [at] = (
            (whole.layers[0].up_weight.view(len(rows), -1, 32) == rows[:, None, unit])
            .all(-1)
            .all(0)
            .nonzero()
        )
        assert torch.equal(
            thin.layers[0].down_weight[:, unit], whole.layers[0].down_weight[:, int(at)]
        )


def test_albert_s_layers_share_their_weights_in_memory(tmp_path: Path) -> None:
    encoder = loaded(tmp_path, "albert")
    first, second = encoder.weights.layers
    assert first.up_weight is second.up_weight
    model = AutoModel.from_pretrained(tmp_path)
    used = sum(p.numel() for name, p in model.named_parameters() if "pooler" not in name)
    # The segments are added to the positions, and nothing else is dropped.
    assert encoder.num_parameters == used - 2 * 16


def rewritten(folder: Path, **changes: object) -> None:
    """Change settings in config.json; None takes one out."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_nomicbert_is_read_by_the_names_of_its_first_configuration(tmp_path: Path) -> None:
    folder = save_tiny_encoder(tmp_path, family="nomic_bert")
    expected = load_encoder(str(folder), dtype="float32").embed_texts(["hello there", "ok"])
    new = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    rewritten(
        folder,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_inner=64,
        n_positions=8192,
        layer_norm_epsilon=1e-12,
        activation_function="swiglu",
        rotary_emb_base=1000,
        rotary_emb_fraction=1.0,
        rotary_emb_interleaved=False,
        prenorm=False,
        causal=False,
        qkv_proj_bias=False,
        auto_map={"AutoModel": "modeling.NomicBertModel"},
        **dict.fromkeys((*new, "hidden_act", "rope_parameters", "max_position_embeddings")),
    )
    found = load_encoder(str(folder), dtype="float32")
    assert torch.equal(found.embed_texts(["hello there", "ok"]), expected)
    assert found.weights.num_positions == 8192
    rewritten(folder, rotary_scaling_factor=2, max_trained_positions=2048)
    assert load_encoder(str(folder)).weights.num_positions == 2048


def test_gte_s_ntk_scaling_is_the_published_formula(tmp_path: Path) -> None:
    """The base grows by the factor, then frequencies shrink by factor^(2 / size)."""
    save_tiny_encoder(tmp_path / "native", family="gte")
    model = AutoModel.from_pretrained(tmp_path / "native").eval()
    folder = save_tiny_encoder(tmp_path / "new", family="gte")
    pairs = torch.arange(0, 8, 2).double() / 8
    model.rotary_emb.inv_freq.copy_(1 / (20_000 * 8) ** pairs / 8 ** (2 / 8))
    rewritten(
        folder,
        model_type="new",
        architectures=["NewModel"],
        auto_map={"AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"},
        position_embedding_type="rope",
        rope_theta=20_000,
        rope_scaling={"type": "ntk", "factor": 8.0},
        rope_parameters=None,
        pack_qkv=True,
        logn_attention_scale=False,
    )
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load(file.read_bytes())
    file.write_bytes(safetensors.torch.save({f"new.{name}": t for name, t in tensors.items()}))
    encoder = load_encoder(str(folder), dtype="float32")
    [row] = random_rows([60])
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([row])).last_hidden_state[0]
    torch.testing.assert_close(encoder.hidden(pack([row])), expected, rtol=0, atol=1e-5)


def test_modernbert_is_read_by_the_names_of_its_first_configuration(tmp_path: Path) -> None:
    folder = save_tiny_encoder(tmp_path, family="modernbert")
    expected = load_encoder(str(folder), dtype="float32").embed_texts(["hello there", "ok"])
    rewritten(
        folder,
        global_attn_every_n_layers=3,
        global_rope_theta=160_000.0,
        local_rope_theta=10_000.0,
        position_embedding_type="absolute",
        layer_types=None,
        rope_parameters=None,
    )
    found = load_encoder(str(folder), dtype="float32").embed_texts(["hello there", "ok"])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("prefix", ["roberta.", "model.encoder."])
def test_a_model_with_a_head_is_read_from_the_encoder_on(prefix: str, tmp_path: Path) -> None:
    folder = save_tiny_encoder(tmp_path, family="roberta")
    expected = load_encoder(str(folder), dtype="float32").embed_texts(["hello"])
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load(file.read_bytes())
    renamed = {f"{prefix}{name}": part for name, part in tensors.items()}
    renamed["lm_head.bias"] = torch.ones(3)
    file.write_bytes(safetensors.torch.save(renamed))
    assert torch.equal(load_encoder(str(folder), dtype="float32").embed_texts(["hello"]), expected)


def test_layer_norms_are_read_by_their_first_names(tmp_path: Path) -> None:
    folder = save_tiny_encoder(tmp_path)
    expected = load_encoder(str(folder), dtype="float32").embed_texts(["hello"])
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load(file.read_bytes())
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, first in old.items():
        tensors = {name.replace(new, first): part for name, part in tensors.items()}
    file.write_bytes(safetensors.torch.save(tensors))
    assert torch.equal(load_encoder(str(folder), dtype="float32").embed_texts(["hello"]), expected)


@pytest.mark.parametrize(
    ("family", "changes", "problem"),
    [
        ("nomic_bert", {"prenorm": True}, "prenorm is True"),
        ("nomic_bert", {"moe_every_n_layers": 2}, "moe_every_n_layers is 2"),
        ("nomic_bert", {"rotary_emb_fraction": 0.5}, "rotary_emb_fraction is 0.5"),
        ("nomic_bert", {"rotary_emb_scale_base": 512}, "rotary_emb_scale_base is 512.*none"),
        ("nomic_bert", {"activation_function": "geglu"}, "activation_function is 'geglu'"),
        ("nomic_bert", {"qkv_proj_bias": True}, "lack 4 tensors"),
        ("nomic_bert", {"head_dim": 16}, "head_dim is not 8"),
        ("gte", {"rope_scaling": {"type": "ntk", "factor": 2, "mixed_b": 0.6}}, "mixed_b"),
        ("gte", {"rope_scaling": {"type": "yarn"}, "rope_parameters": None}, "'yarn'"),
        ("gte", {"position_embedding_type": "absolute"}, "position_embedding_type is 'absolute'"),
        ("gte", {"logn_attention_scale": True}, "logn_attention_scale is True"),
        ("deberta-v2", {"conv_kernel_size": 3}, "conv_kernel_size is 3"),
        ("deberta-v2", {"embedding_size": 16}, "embedding_size is not its hidden_size"),
        ("deberta-v2", {"position_buckets": 16}, r"rel_embeddings.weight has shape \[16, 32\]"),
        ("electra", {"embedding_size": 32}, "which its configuration contradicts"),
        ("albert", {"num_hidden_groups": 2}, "lack 16 tensors"),
        ("bert", {"intermediate_size": 128}, r"intermediate.dense.weight has shape \[64, 32\]"),
        ("bert", {"num_attention_heads": 5}, "not a multiple of its number of heads"),
        ("bert", {"num_hidden_layers": None}, "no num_layers: its config.json is damaged"),
        ("modernbert", {"hidden_activation": "tanh"}, "activation 'tanh'"),
    ],
)
def test_a_setting_that_would_compute_something_else_is_refused(
    family: str, changes: dict[str, object], problem: str, tmp_path: Path
) -> None:
    folder = save_tiny_encoder(tmp_path, family=family)
    rewritten(folder, **changes)
    with pytest.raises(EncoderError, match=problem):
        load_encoder(str(folder))
