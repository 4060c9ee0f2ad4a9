"""Records what sentence-transformers embeds, for the tests that have not installed it.

    python -m tests.unit.backbone.record_sentence_transformers

It needs sentence-transformers, which the project does not: install version 6.2.0 beside the project
in an environment of its own. It prints how far the project's vectors are from the recorded ones.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapterdistill.backbone import load_encoder
from tests.sentence_folders import CASES, PASSAGES, QUERIES, save_case

RECORDED = Path(__file__).parent / "recorded" / "sentence_transformers.json"


def their_vectors(folder: Path) -> dict[str, Tensor]:
    """Embed the texts with sentence-transformers, each at unit length."""
    from sentence_transformers import SentenceTransformer

    options = {"dtype": torch.float32}
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs=options)
    named = [name for name, text in model.prompts.items() if text]
    if not {"query", "document", "passage"}.intersection(named):  # a default prompt is for all
        found = {"query": model.encode(QUERIES), "passage": model.encode(PASSAGES)}
    elif "passage" in named:  # `encode_document` overlooks it
        passages = model.encode(PASSAGES, prompt_name="passage")
        found = {"query": model.encode_query(QUERIES), "passage": passages}
    else:
        found = {"query": model.encode_query(QUERIES), "passage": model.encode_document(PASSAGES)}
    return {
        kind: torch.nn.functional.normalize(torch.tensor(vectors), dim=-1)
        for kind, vectors in found.items()
    }


def our_vectors(folder: Path) -> dict[str, Tensor]:
    """Embed the texts with the project."""
    encoder = load_encoder(str(folder), dtype="float32")
    return {
        "query": encoder.embed_texts(QUERIES),
        "passage": encoder.embed_texts(PASSAGES, kind="passage"),
    }


def largest_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return max(float((ours[kind] - theirs[kind]).abs().max()) for kind in theirs)


def main() -> None:
    recorded: dict[str, dict[str, Any]] = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            theirs = their_vectors(save_case(Path(folder), case))
            ours = our_vectors(Path(folder))
        print(f"| {name} | {largest_difference(ours, theirs):.1e} |", flush=True)
        recorded[name] = {
            kind: [[round(value, 5) for value in row] for row in vectors.tolist()]
            for kind, vectors in theirs.items()
        }
    lines = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(vectors, separators=(',', ':'))}"
        for name, vectors in recorded.items()
    )
    RECORDED.parent.mkdir(exist_ok=True)
    RECORDED.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
