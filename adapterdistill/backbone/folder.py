"""What an encoder's folder says: every setting of sentence-transformers is obeyed or refused.

    modules.json                        the modules, in order: Transformer, Pooling, then others
    1_Pooling/config.json               how a row's states become one vector
    2_Dense/, 3_Normalize/, ...         modules after it
    sentence_bert_config.json           maximum length, lower case
    config_sentence_transformers.json   prompts
    config.json, weights, tokenizer     beside these, or in the Transformer's folder

A folder without `modules.json` is a bare transformer, whose states are averaged.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from adapterdistill.errors import EncoderError
from adapterdistill.manifest import PoolingMode

_LFS = b"version https://git-lfs"
_LEGACY_POOLING: dict[str, PoolingMode] = {  # in the order in which several are put side by side
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_AFTER_POOLING = ("Dense", "LayerNorm", "Normalize", "Dropout")
_TRANSFORMER_SETTINGS = [
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
_TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_SCORING_HEADS = ("SequenceClassification", "TokenClassification", "QuestionAnswering")


@dataclass(frozen=True)
class ModuleFolder:
    """A module after pooling."""

    kind: str
    path: Path
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class EncoderFolder:
    """The settings of an encoder's folder."""

    name: str
    """The encoder's name, for errors."""
    path: Path
    """Folder of configuration, weights and tokenizer."""
    config: Mapping[str, Any]
    """config.json"""
    tokenizer_config: Mapping[str, Any]
    """tokenizer_config.json"""
    weights: tuple[Path, ...]
    pooling: tuple[PoolingMode, ...] = ("mean",)
    include_prompt: bool = True
    modules: tuple[ModuleFolder, ...] = ()
    """Those after pooling, without a `Normalize` at the end, which is always done."""
    query_prompt: str = ""
    passage_prompt: str = ""
    max_tokens: int | None = None
    """None: as many as it has positions for."""
    lower_case: bool = False


def read_folder(folder: Path, name: str) -> EncoderFolder:
    """Read all settings of an encoder's folder.

    Raises:
        EncoderError: a file is missing or damaged, or a setting is not supported.
    """
    return _Reader(folder, name).read()


def whole(path: Path, name: str) -> bytes:
    """Read the beginning of a file. Raises EncoderError: it is only a pointer of git-LFS."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS))
    except OSError as error:
        raise EncoderError(
            f"encoder {name!r}: {path.name} cannot be read: {error.strerror}"
        ) from None
    if start == _LFS:
        raise EncoderError(
            f"encoder {name!r}: {path.name} is a pointer of git-LFS, not the file itself: run "
            f"`git lfs pull` in its folder"
        )
    return start


def file_sha256(path: Path) -> str:
    """Digest a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weight_files(folder: Path, name: str, *, convert: str) -> tuple[Path, ...]:
    """Find the safetensors files of a folder: one, or the shards that an index lists.

    Args:
        convert: command that makes safetensors of `pytorch_model.bin`.

    Raises:
        EncoderError: there are none, or a shard is missing.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    files = [single]
    if not single.is_file() and index.is_file():
        shards = _json(index, name).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise EncoderError(f"encoder {name!r} cannot be loaded: {index.name} lists no shard")
        files = [folder / str(file) for file in sorted(set(shards.values()))]
        for file in files:
            if file.parent != folder or not file.is_file():
                raise EncoderError(
                    f"encoder {name!r}: {index.name} lists {file.name}, which is not in its folder"
                )
    elif not single.is_file():
        if any(folder.glob("pytorch_model*.bin*")):
            raise EncoderError(
                f"encoder {name!r}: its weights are pytorch_model.bin, which may hold code: "
                f"expected model.safetensors. Convert them, if you trust who made them: {convert}"
            )
        raise EncoderError(f"encoder {name!r}: no model.safetensors in its folder")
    for file in files:
        whole(file, name)
    return tuple(files)


def _json(path: Path, name: str) -> dict[str, Any]:
    whole(path, name)
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise EncoderError(f"encoder {name!r} cannot be loaded: {path.name} is not JSON") from None
    if not isinstance(found, dict):
        raise EncoderError(f"encoder {name!r} cannot be loaded: {path.name} is not a JSON object")
    return found


class _Reader:
    def __init__(self, folder: Path, name: str) -> None:
        self._root, self._name = folder, name

    def read(self) -> EncoderFolder:
        listed = self._listed()
        path = listed[0].path if listed else self._root
        config = self._required(path / "config.json")
        if not listed:
            self._refuse_scoring_heads(config)
        if (path / "adapter_config.json").is_file():
            raise self._error(
                "adapter_config.json says that its weights are an adapter of PEFT on another "
                "encoder: merge them (`merge_and_unload`) and save the whole"
            )
        if config.get("quantization_config"):
            raise self._error("config.json sets quantization_config, which is not supported")
        tokenizer_config = self._optional(path / "tokenizer_config.json")
        own = self._transformer_settings(path)
        pooling: tuple[PoolingMode, ...] = ("mean",)
        include_prompt, modules = True, listed[2:]
        if listed:
            pooling, include_prompt = self._pooling(listed[1])
        normalized = bool(modules) and modules[-1].kind == "Normalize"
        query, passage = self._prompts(normalized)
        return EncoderFolder(
            name=self._name,
            path=path,
            config=config,
            tokenizer_config=tokenizer_config,
            weights=weight_files(path, self._name, convert=_conversion(path)),
            pooling=pooling,
            include_prompt=include_prompt,
            modules=tuple(modules[:-1] if normalized else modules),
            query_prompt=query,
            passage_prompt=passage,
            max_tokens=self._max_tokens(own, tokenizer_config),
            lower_case=self._flag(own, "do_lower_case", False),
        )

    def _error(self, problem: str) -> EncoderError:
        return EncoderError(f"encoder {self._name!r}: {problem}")

    def _required(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            raise self._error(f"no {path.name} in its folder")
        return _json(path, self._name)

    def _optional(self, path: Path) -> dict[str, Any]:
        return _json(path, self._name) if path.is_file() else {}

    def _only(self, settings: Mapping[str, Any], known: Collection[str], file: str) -> None:
        """Refuse settings that nobody here reads, unless they are empty."""
        for key, value in settings.items():
            if key not in known and value not in (None, False, "", [], {}):
                raise self._error(f"{file} sets {key}, which is not supported")

    def _flag(self, settings: Mapping[str, Any], key: str, default: bool) -> bool:
        value = settings.get(key, default)
        if not isinstance(value, bool):
            raise self._error(f"{key} must be true or false, got {str(value)[:40]!r}")
        return value

    def _listed(self) -> list[ModuleFolder]:
        """List the modules in order; none: the folder has no modules.json."""
        file = self._root / "modules.json"
        if not file.is_file():
            return []
        whole(file, self._name)
        try:
            found = json.loads(file.read_bytes())
            rows = sorted((row["idx"], row["type"], row.get("path", "")) for row in found)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise self._error("modules.json is not a list of modules") from None
        modules = [self._module(str(kind), str(path)) for _, kind, path in rows]
        kinds = [module.kind for module in modules]
        if kinds[:2] != ["Transformer", "Pooling"]:
            raise self._error(
                f"modules.json lists {', '.join(kinds) or 'nothing'}: expected Transformer and "
                f"Pooling first, then any of {', '.join(_AFTER_POOLING)}"
            )
        for kind in kinds[2:]:
            if kind not in _AFTER_POOLING:
                raise self._error(
                    f"modules.json lists the module {kind}, which is not supported after Pooling: "
                    f"expected {', '.join(_AFTER_POOLING)}"
                )
        return [module for module in modules if module.kind != "Dropout"]  # it acts in training

    def _module(self, kind: str, path: str) -> ModuleFolder:
        folder = self._root / path
        if not folder.resolve().is_relative_to(self._root.resolve()):
            raise self._error("modules.json names a folder outside the encoder's own")
        if not kind.startswith("sentence_transformers."):
            raise self._error(f"modules.json lists {kind[:100]}, which is code of its own: not run")
        return ModuleFolder(
            kind=kind.rsplit(".", 1)[-1],
            path=folder,
            settings={} if folder == self._root else self._optional(folder / "config.json"),
        )

    def _refuse_scoring_heads(self, config: Mapping[str, Any]) -> None:
        for architecture in config.get("architectures") or ():
            if str(architecture).endswith(_SCORING_HEADS):
                raise self._error(
                    f"it is a cross-encoder or classifier ({architecture}), which scores texts and "
                    "embeds none: expected an encoder, such as one of sentence-transformers"
                )

    def _transformer_settings(self, path: Path) -> dict[str, Any]:
        file = next((path / n for n in _TRANSFORMER_SETTINGS if (path / n).is_file()), None)
        if file is None:
            return {}
        settings = _json(file, self._name)
        fixed = {
            "transformer_task": ("feature-extraction",),
            "module_output_name": ("token_embeddings",),
            "modality_config": (_TEXT_ONLY,),
            "unpad_inputs": (True, False),
        }
        for key, values in fixed.items():
            if settings.get(key) not in (None, *values):
                raise self._error(f"{file.name} sets {key} to what is not supported")
        self._only(settings, ("max_seq_length", "do_lower_case", *fixed), file.name)
        return settings

    def _pooling(self, module: ModuleFolder) -> tuple[tuple[PoolingMode, ...], bool]:
        settings = module.settings
        known = ("word_embedding_dimension", "embedding_dimension", "pooling_mode")
        file = f"{module.path.name}/config.json"
        self._only(settings, (*known, "include_prompt", *_LEGACY_POOLING), file)
        named = settings.get("pooling_mode")
        if named is None:
            named = [mode for key, mode in _LEGACY_POOLING.items() if settings.get(key)] or ["mean"]
        modes = [named] if isinstance(named, str) else named
        supported = get_args(PoolingMode)
        if not isinstance(modes, list) or not modes or not all(m in supported for m in modes):
            raise self._error(f"{file} sets pooling_mode: expected {', '.join(supported)}")
        return tuple(modes), self._flag(settings, "include_prompt", True)

    def _prompts(self, normalized: bool) -> tuple[str, str]:
        """The prompts of queries and of FAQ texts, as `encode_query` and `encode_document` take
        them; the default prompt is for an encoder that names neither."""
        file = "config_sentence_transformers.json"
        settings = self._optional(self._root / file)
        known = ("prompts", "default_prompt_name", "similarity_fn_name", "model_type")
        self._only(settings, ("__version__", *known), file)
        if settings.get("model_type") not in (None, "SentenceTransformer"):
            raise self._error(f"it is a {settings['model_type']}, not a SentenceTransformer")
        similarity = settings.get("similarity_fn_name")
        if similarity not in (None, "cosine") and not normalized:
            raise self._error(
                f"{file} ranks by {similarity} of vectors that are not of unit length: vectors are "
                "compared by cosine here"
            )
        prompts = settings.get("prompts") or {}
        if not isinstance(prompts, dict):
            raise self._error(f"{file}: prompts must be a table of names and texts")
        texts = {name: "" if text is None else text for name, text in prompts.items()}
        default = settings.get("default_prompt_name")
        if default is not None and default not in texts:
            raise self._error(f"{file}: default_prompt_name names no prompt")
        if not all(isinstance(text, str) for text in texts.values()):
            raise self._error(f"{file}: prompts must be a table of names and texts")
        passages = [texts[key] for key in ("document", "passage", "corpus") if texts.get(key)]
        if default is not None and "query" not in texts and not passages:
            return texts[default], texts[default]
        return texts.get("query", ""), next(iter(passages), "")

    def _max_tokens(self, own: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> int | None:
        found = own.get("max_seq_length")
        if found is None:
            found = tokenizer.get("model_max_length")
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int | float) or found < 8:
            raise self._error("max_seq_length must be a number of 8 tokens or more")
        return int(min(found, 8192))


def _conversion(folder: Path) -> str:
    return (
        'python -c "from transformers import AutoModel; '
        f"AutoModel.from_pretrained(r'{folder}', trust_remote_code=False)"
        f".save_pretrained(r'{folder}')\""
    )


def module_conversion(folder: Path) -> str:
    """Make the command that converts a module's `pytorch_model.bin`."""
    return (
        'python -c "import torch, safetensors.torch as s; '
        f"s.save_file(torch.load(r'{folder}/pytorch_model.bin', weights_only=True), "
        f"r'{folder}/model.safetensors')\""
    )
