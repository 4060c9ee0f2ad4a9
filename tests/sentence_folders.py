"""Tiny random encoders as sentence-transformers saves them, one for each setting of a folder."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from tokenizers import Tokenizer, processors

from tests.tiny_encoders import FAMILIES, save_tiny_encoder, tiny_model

QUERIES = ("When do you open on Sunday?", "how long is shipping", "X")
PASSAGES = ("Opening hours of the shop", "Shipping takes three days, to Spain a week.")
HIDDEN = 32
_LEGACY = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_PROMPTS = {"query": "query: ", "document": "passage: "}


@dataclass(frozen=True)
class Case:
    """One encoder's folder."""

    family: str = "bert"
    pooling: tuple[str, ...] = ("mean",)
    pooling_settings: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of 1_Pooling/config.json."""
    modules: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """(type, config.json) of the modules between Pooling and Normalize."""
    normalize: bool = True
    settings: Mapping[str, Any] = field(default_factory=lambda: {"max_seq_length": 64})
    """sentence_bert_config.json"""
    prompts: Mapping[str, Any] = field(default_factory=dict)
    """config_sentence_transformers.json"""
    change: Callable[[Path], None] = lambda folder: None
    """Changes the transformer's folder."""
    transformer: str = ""
    """The transformer's folder below the encoder's."""


def save_case(folder: Path, case: Case) -> Path:
    """Write the encoder's folder; equal cases give equal weights on every machine."""
    own = folder / case.transformer
    save_tiny_encoder(own, family=case.family)
    model = tiny_model(case.family)
    _draw(model)
    model.save_pretrained(own)
    special = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
    names = dict(zip(("cls_token", "sep_token", "pad_token", "unk_token"), special, strict=True))
    write(own / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})
    case.change(own)
    modules = [("Transformer", case.transformer), ("Pooling", "1_Pooling")]
    pooling = {_LEGACY[mode]: mode in case.pooling for mode in _LEGACY}
    sizes = {"word_embedding_dimension": HIDDEN}
    write(folder / "1_Pooling" / "config.json", {**sizes, **pooling, **case.pooling_settings})
    for number, (kind, settings) in enumerate(case.modules, 2):
        modules.append((kind, f"{number}_{kind}"))
        write(folder / f"{number}_{kind}" / "config.json", settings)
        tensors = _module_tensors(kind, settings)
        if tensors:
            file = folder / f"{number}_{kind}" / "model.safetensors"
            safetensors.torch.save_file(tensors, file)
    if case.normalize:
        modules.append(("Normalize", f"{len(modules)}_Normalize"))
    write(
        folder / "modules.json",
        [
            {
                "idx": n,
                "name": str(n),
                "path": path,
                "type": f"sentence_transformers.models.{kind}",
            }
            for n, (kind, path) in enumerate(modules)
        ],
    )
    write(own / "sentence_bert_config.json", case.settings)
    write(folder / "config_sentence_transformers.json", case.prompts)
    return folder


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def change(file: str, **settings: Any) -> Callable[[Path], None]:
    """Make a change that adds settings to a JSON file."""

    def do(folder: Path) -> None:
        path = folder / file
        found = json.loads(path.read_text()) if path.is_file() else {}
        write(path, {**found, **settings})

    return do


def special_tokens(template: str, *, lowercase: bool = True) -> Callable[[Path], None]:
    """Make a change of the tokenizer's special tokens, and perhaps of its lower case."""

    def do(folder: Path) -> None:
        file = str(folder / "tokenizer.json")
        tokenizer = Tokenizer.from_file(file)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template,
            special_tokens=[
                (name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]", "[PAD]")
            ],
        )
        if not lowercase:
            tokenizer.normalizer = None
        tokenizer.save(file)

    return do


def half(dtype: torch.dtype) -> Callable[[Path], None]:
    """Make a change of the weights' type."""

    def do(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = safetensors.torch.load(file.read_bytes())
        halved = {name: value.to(dtype) for name, value in tensors.items()}
        file.write_bytes(safetensors.torch.save(halved, {"format": "pt"}))

    return do


def shard(folder: Path) -> None:
    """Split the weights over two files."""
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load(file.read_bytes())
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    file_of = {name: names[place % 2] for place, name in enumerate(sorted(tensors))}
    for shard_name in names:
        part = {name: tensors[name] for name, own in file_of.items() if own == shard_name}
        (folder / shard_name).write_bytes(safetensors.torch.save(part, {"format": "pt"}))
    file.unlink()
    write(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": file_of})


def vocabulary_alone(folder: Path) -> None:
    """Leave `vocab.txt` in place of `tokenizer.json`."""
    file = folder / "tokenizer.json"
    words = sorted(
        (place, word) for word, place in json.loads(file.read_text())["model"]["vocab"].items()
    )
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for _, word in words))
    file.unlink()
    write(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})


def _dense(size: int, activation: str, **settings: Any) -> tuple[str, dict[str, Any]]:
    path = f"torch.nn.modules.{activation}"
    sizes = {"in_features": HIDDEN, "out_features": size, "bias": True}
    return "Dense", {**sizes, "activation_function": path, **settings}


def _module_tensors(kind: str, settings: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    if kind == "Dense":
        size = settings["out_features"]
        weight = {"linear.weight": draw(size, settings["in_features"])}
        return {**weight, "linear.bias": draw(size)} if settings["bias"] else weight
    if kind == "LayerNorm":
        return {"norm.weight": draw(HIDDEN), "norm.bias": draw(HIDDEN)}
    return {}


@torch.no_grad()
def _draw(model: torch.nn.Module) -> None:
    """Draw all parameters anew, in the order of their names, whatever the library's start is."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in sorted(model.named_parameters()):
        drawn = torch.randn(parameter.shape, generator=generator)
        centre = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
        parameter.copy_(centre + drawn * (0.3 if parameter.dim() > 1 else 0.1))


_OWN_PROMPTS = {"prompts": _PROMPTS}
CASES: dict[str, Case] = {
    **{f"family {family}": Case(family) for family in FAMILIES},
    **{f"pooling {mode}": Case(pooling=(mode,)) for mode in _LEGACY},
    "pooling cls beside max": Case(pooling=("cls", "max"), normalize=False),
    "pooling mean_sqrt_len_tokens beside cls": Case(
        pooling=("cls", "mean_sqrt_len_tokens"), normalize=False
    ),
    "pooling in the newer spelling": Case(
        pooling=(), pooling_settings={"pooling_mode": ["lasttoken", "mean"]}
    ),
    "no normalisation": Case(normalize=False),
    "cls, dense with tanh": Case(pooling=("cls",), modules=(_dense(16, "activation.Tanh"),)),
    "normalised, dense without bias": Case(
        modules=(("Normalize", {}), _dense(48, "linear.Identity", bias=False)), normalize=False
    ),
    "layer norm and dropout": Case(
        modules=(("LayerNorm", {"dimension": HIDDEN}), ("Dropout", {"dropout": 0.5}))
    ),
    "prompts": Case(prompts=_OWN_PROMPTS),
    "prompts of queries and passages": Case(
        prompts={"prompts": {"query": "query: ", "passage": "passage: "}}
    ),
    "default prompt alone": Case(
        prompts={"prompts": {"sts": "compare: "}, "default_prompt_name": "sts"}
    ),
    "default prompt": Case(prompts={**_OWN_PROMPTS, "default_prompt_name": "query"}),
    "prompt of queries only": Case(prompts={"prompts": {"query": "query: "}}),
    "prompts that mean leaves out": Case(
        prompts=_OWN_PROMPTS, pooling_settings={"include_prompt": False}
    ),
    "prompts that weighted mean leaves out": Case(
        pooling=("weightedmean",), prompts=_OWN_PROMPTS, pooling_settings={"include_prompt": False}
    ),
    "prompts that cls leaves out": Case(
        pooling=("cls",), prompts=_OWN_PROMPTS, pooling_settings={"include_prompt": False}
    ),
    "eight tokens": Case(settings={"max_seq_length": 8}),
    "lower case of a cased tokenizer": Case(
        settings={"max_seq_length": 64, "do_lower_case": True},
        change=special_tokens("[CLS] $A [SEP]", lowercase=False),
    ),
    "cased tokenizer": Case(change=special_tokens("[CLS] $A [SEP]", lowercase=False)),
    "special tokens at the end only": Case(change=special_tokens("$A [SEP]")),
    "special tokens at the start only": Case(change=special_tokens("[CLS] $A")),
    "two special tokens at the end": Case(change=special_tokens("[CLS] $A [SEP] [PAD]")),
    "vocabulary alone": Case(change=vocabulary_alone),
    "folder of the transformer": Case(transformer="0_Transformer"),
    "sharded weights": Case(change=shard),
    "float16 weights": Case(change=half(torch.float16)),
    "bfloat16 weights": Case(change=half(torch.bfloat16)),
}
