"""Questions in one language on FAQs in another: Swedish on English, from a bilingual FAQ.

The package `zaragoza-construction-faq` (CC BY 4.0) has 503 FAQs of the Swedish building trade in
both languages. It is read where it is installed and does not ship with this project. Nothing is
trained: each Swedish question is ranked against all English ones by cosine, as a tenant's first
users would find it that has no query yet.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.errors import ConfigError
from adapterdistill.evaluation.metrics import paired_bootstrap
from adapterdistill.testbed.environment import environment
from adapterdistill.testbed.reporting import Report, document, setting, table, write_report

PACKAGE = "zaragoza-construction-faq"
_DATA = "zaragoza_construction_faq/data"
DIRECTIONS = {"sv on en": ("sv", "en"), "en on sv": ("en", "sv")}
"""Language of the questions, then of the FAQs."""


def read_faqs() -> dict[str, list[str]]:
    """Read the questions of both languages, in the same order.

    Raises:
        ConfigError: the package is not installed, or its two lists differ.
    """
    try:
        folder = Path(str(distribution(PACKAGE).locate_file(_DATA)))
    except PackageNotFoundError:
        raise ConfigError(f"the data are not installed: pip install {PACKAGE}") from None
    rows = {
        language: json.loads((folder / name).read_text("utf-8"))["questions"]
        for language, name in {"sv": "faq.json", "en": "faq-en.json"}.items()
    }
    if [row["id"] for row in rows["sv"]] != [row["id"] for row in rows["en"]]:
        raise ConfigError(f"{PACKAGE}: its Swedish and English FAQs are not the same")
    return {language: [row["q"] for row in of] for language, of in rows.items()}


def right_at_first(encoder: Encoder, queries: Sequence[str], faqs: Sequence[str]) -> Tensor:
    """Say of each query, whose FAQ has its place, whether that FAQ's text is ranked first.

    Returns: [queries] float64 of 0 and 1. FAQs with the same text are all right.
    """
    index = encoder.embed_ids(encoder.tokenize(faqs, "passage"))
    first = (encoder.embed_texts(queries) @ index.T).argmax(dim=1).tolist()
    right = [faqs[one] == faqs[place] for place, one in enumerate(first)]
    return torch.tensor(right, dtype=torch.float64)


def languages_command(*, out: Path, encoders: Sequence[str], dtype: str, device: str) -> Report:
    """Measure top-1 of each encoder both ways, and the gain over the first with its interval."""
    texts = read_faqs()
    found: dict[str, dict[str, Tensor]] = {}
    for name in encoders:
        encoder = load_encoder(name, dtype=dtype, device=device)
        found[name] = {
            way: right_at_first(encoder, texts[asked], texts[answered])
            for way, (asked, answered) in DIRECTIONS.items()
        }
    facts = {**environment(), "faqs": len(texts["en"]), "data": PACKAGE}
    rows: list[dict[str, Any]] = []
    for name, ways in found.items():
        for way, right in ways.items():
            base = found[encoders[0]][way]
            top1, gain = (asdict(paired_bootstrap([of])) for of in (right, right - base))
            rows.append({"encoder": name, "questions": way, "top1": top1, "gain": gain})
    shown = table(
        ["encoder", "questions on FAQs", "top-1 %", f"points over {encoders[0]}"],
        (
            [one["encoder"], one["questions"], _points(one["top1"]), _points(one["gain"])]
            for one in rows
        ),
    )
    figures = {"environment": facts, "encoders": rows}
    return write_report(out, figures, document("Other languages", shown, setting(facts)))


def _points(of: dict[str, float]) -> str:
    return f"{100 * of['mean']:.1f} ({100 * of['low']:.1f} to {100 * of['high']:.1f})"
