"""Records what sentence-transformers embeds, for the tests that have not installed it.

    uv run --no-project --python .venv --with sentence-transformers==6.2.0 \\
        python -m tests.unit.backbone.record_sentence_transformers

It needs sentence-transformers, which the project does not: use an environment of its own.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.sentence_folders import CASES, PASSAGES, QUERIES, save_case

RECORDED = Path(__file__).parent / "recorded" / "sentence_transformers.json"


def record(folder: Path) -> dict[str, Any]:
    """Embed the texts with the encoder in `folder`, each at unit length, 5 decimals."""
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
        kind: [
            [round(value, 5) for value in row]
            for row in torch.nn.functional.normalize(torch.tensor(vectors), dim=-1).tolist()
        ]
        for kind, vectors in found.items()
    }


def main() -> None:
    recorded = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            recorded[name] = record(save_case(Path(folder), case))
    lines = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(vectors, separators=(',', ':'))}"
        for name, vectors in recorded.items()
    )
    RECORDED.parent.mkdir(exist_ok=True)
    RECORDED.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
