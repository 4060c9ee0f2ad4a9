"""Variants as bytes, and trained as a stage."""

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import pack_adapter, state_digest
from adapterdistill.distill.batches import choose_rows
from adapterdistill.distill.folds import NUM_FOLDS, CrossValidation, fold_file
from adapterdistill.distill.method import Variant, VariantSettings
from adapterdistill.distill.objective import Objective, Scored
from adapterdistill.distill.rows import StageRows, write_rows
from adapterdistill.distill.stage import (
    StageSpec,
    build_objective,
    load_payload,
    run_stage,
    texts_of,
    trained_by,
)
from adapterdistill.distill.training import Schedule, train
from adapterdistill.distill.variants import pack_variant, unpack_variant
from adapterdistill.errors import ConfigError, InvalidPayloadError
from tests.random_variants import LIGHT, VARIANTS, random_variant
from tests.separable_tenant import fold_stage, held_out_of, separable_rows, separable_stage
from tests.tiny_encoders import random_adapter

IDS = separable_rows(2, seed=3).ids
each_variant = pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)


@each_variant
def test_a_variant_survives_its_payload(tiny_encoder: Encoder, settings: VariantSettings) -> None:
    variant = random_variant(tiny_encoder, settings, seed=5)
    payload = pack_variant(variant)
    found = unpack_variant(payload, tiny_encoder)
    assert found.settings == settings and pack_variant(found) == payload
    expected = tiny_encoder.embed_ids(IDS, variant.embedder)
    assert torch.equal(tiny_encoder.embed_ids(IDS, found.embedder), expected)
    assert float((expected.norm(dim=1) - 1).abs().max()) < 1e-5
    assert float((expected - tiny_encoder.embed_ids(IDS)).norm(dim=1).min()) > 0.05
    assert not any(parameter.requires_grad for parameter in found.model.parameters())


@each_variant
def test_other_tensors_than_the_variant_has_are_refused(
    tiny_encoder: Encoder, settings: VariantSettings
) -> None:
    payload = pack_variant(random_variant(tiny_encoder, settings, seed=5))
    tensors = safetensors.torch.load(payload)
    name = max(tensors, key=lambda name: tensors[name].numel())
    size = int.from_bytes(payload[:8], "little")
    start = payload[8 : 8 + size].index(b'"served_form":"') + len('"served_form":"')
    said = payload[8 : 8 + size][start:].split(b'"}', 1)[0].replace(b'\\"', b'"').decode()

    def refused(changed: dict[str, Tensor], match: str, metadata: str = said) -> None:
        other = safetensors.torch.save(changed, {"served_form": metadata})
        with pytest.raises(InvalidPayloadError, match=match):
            unpack_variant(other, tiny_encoder)

    refused({k: v for k, v in tensors.items() if k != name}, "other tensors")
    refused(tensors | {"more": torch.zeros(1)}, "other tensors")
    refused(tensors | {name: tensors[name][:1].clone()}, "other tensors")
    refused(tensors | {name: tensors[name].double()}, "other tensors")
    refused(tensors | {name: torch.full_like(tensors[name], torch.nan)}, "not finite")
    refused(tensors, "not a variant", said.replace(settings.kind, "magic"))
    refused(tensors, "not a variant", "{")


def test_what_is_no_variant_or_not_for_this_encoder_is_refused(tiny_encoder: Encoder) -> None:
    adapter = pack_adapter(random_adapter(tiny_encoder, seed=1), model_name="test")
    for payload in (b"", b"torn", adapter):
        with pytest.raises(InvalidPayloadError, match="not a variant"):
            unpack_variant(payload, tiny_encoder)
    variant = random_variant(tiny_encoder, LIGHT, seed=1)
    deep = LIGHT.model_copy(update={"layers": 3})
    with pytest.raises(InvalidPayloadError, match="not fit the encoder: a student of 3 layers"):
        unpack_variant(pack_variant(Variant(deep, variant.model)), tiny_encoder)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"layers": 3}, "3 layers: its teacher has 2; take 1 to 2"),
        ({"heads": 5}, "5 attention heads: its teacher has 4; take 1 to 4"),
        ({"body": "bilstm", "lstm_size": 17}, "34 wide.*embeddings 32: take at most 16"),
    ],
)
def test_a_student_larger_than_its_teacher_is_refused(
    tiny_encoder: Encoder, changed: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        LIGHT.model_copy(update=changed).new(tiny_encoder, seed=0)


def spec_of(
    folder: Path, encoder: Encoder, settings: VariantSettings, rows: StageRows
) -> StageSpec:
    """The making of a variant from an adapter of its own for all rows and each fold."""
    write_rows(folder / "rows", rows)
    for n, file in enumerate([folder / "a", *(fold_file(folder / "a", f) for f in range(2))]):
        adapter = random_adapter(encoder, seed=n, scale=0.1)
        file.write_bytes(pack_adapter(adapter, model_name="test"))
    schedule = Schedule(max_steps=30, batch_size=16, evaluate_every=10, learning_rate=5e-3)
    return StageSpec(
        rows=str(folder / "rows"),
        bottleneck_size=4,
        schedule=schedule,
        seed=1,
        method=settings.kind,
        initial=str(folder / "a"),
        variant=settings.model_dump(mode="json"),
    )


def test_a_spec_with_a_variant_survives_json(tmp_path: Path, tiny_encoder: Encoder) -> None:
    for settings in VARIANTS.values():
        spec = spec_of(tmp_path, tiny_encoder, settings, separable_stage())
        assert StageSpec.from_json(spec.to_json()) == spec


@each_variant
def test_a_variant_comes_closer_to_the_adapter_which_stays_as_it_was(
    tmp_path: Path, tiny_encoder: Encoder, settings: VariantSettings
) -> None:
    rows = separable_stage()
    spec = replace(spec_of(tmp_path, tiny_encoder, settings, rows), initial=str(tmp_path / "a"))
    none = separable_rows(1, seed=0).select(torch.zeros(6, dtype=torch.bool))
    write_rows(Path(spec.rows), replace(rows, held_queries=none))  # so that all steps are run
    before = (tmp_path / "a").read_bytes()
    goal = tiny_encoder.embed_ids(IDS, load_payload(tmp_path / "a"))
    trained = run_stage(spec, tiny_encoder)
    variant = trained.student
    assert isinstance(variant, Variant) and trained.result.steps == 30
    start = settings.embedder(settings.new(tiny_encoder, seed=spec.seed))

    def missed(embeddings: Tensor) -> float:
        return 1 - float((embeddings * goal).sum(-1).mean())

    assert missed(tiny_encoder.embed_ids(IDS, variant.embedder)) < 0.9 * missed(
        tiny_encoder.embed_ids(IDS, start)
    )
    assert (tmp_path / "a").read_bytes() == before


@each_variant
def test_the_best_step_of_held_out_rows_is_kept(
    tmp_path: Path, tiny_encoder: Encoder, settings: VariantSettings
) -> None:
    trained = run_stage(spec_of(tmp_path, tiny_encoder, settings, separable_stage()), tiny_encoder)
    assert isinstance(trained.student, Variant)
    score = held_out_of(tiny_encoder)(trained.student.embedder)
    assert score == pytest.approx(trained.result.best_score, abs=1e-5)


@each_variant
@pytest.mark.parametrize("changed", range(NUM_FOLDS))
def test_no_fold_s_variant_sees_what_its_fold_holds_out(
    tmp_path: Path, tiny_encoder: Encoder, settings: VariantSettings, changed: int
) -> None:
    rows = fold_stage()
    assert rows.folds is not None
    held_out = (rows.folds == changed).tolist()
    pairs = zip(rows.train.ids, held_out, strict=True)
    other = replace(rows.train, ids=[[*ids[:-1], 77, 3] if held else ids for ids, held in pairs])

    def model_of(spec: StageSpec, objective: Objective) -> nn.Module:
        trained = trained_by(spec, objective)
        assert isinstance(trained, Variant)
        return trained.model

    def digests(rows: StageRows) -> list[str]:
        spec = spec_of(tmp_path, tiny_encoder, settings, rows)
        texts = texts_of(spec, tiny_encoder, rows)
        assert texts.folds is not None
        folds = [
            build_objective(spec.of_fold(fold), tiny_encoder, part.train, texts)
            for fold, part in enumerate(rows.splits())
        ]
        scored = [Scored(objective, lambda _: 0.0) for objective in folds]
        schedule = Schedule(max_steps=6, batch_size=32)
        validation = CrossValidation(scored, texts.rows, texts.folds)
        train(validation, texts.rows, schedule, seed=0, choose=texts.choose or choose_rows)
        return [state_digest(model_of(spec, objective)) for objective in folds]

    before, after = digests(rows), digests(replace(rows, train=other))
    same = [one == two for one, two in zip(before, after, strict=True)]
    assert same == [fold == changed for fold in range(NUM_FOLDS)]
