# mypy: ignore-errors
"""Trains SetFit and prints what it finds. SetFit's own interpreter runs this file by its path.

It imports nothing of the project, which is not installed there. It reads one JSON object from its
input and prints one: probabilities [queries, FAQs] and the seconds from loading the encoder to the
last probability.

Reference: Tunstall et al., "Efficient Few-Shot Learning Without Prompts", 2022.
"""

import contextlib
import json
import sys
import tempfile
from time import perf_counter
from typing import Any


def fit(asked: dict[str, Any]) -> dict[str, Any]:
    """Train on `texts` and `labels`, and give each list of `queries` its probabilities."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    started = perf_counter()
    model = SetFitModel.from_pretrained(
        asked["encoder"],
        device=asked["device"],
        local_files_only=True,
        trust_remote_code=False,
    )
    model.model_body.max_seq_length = asked["max_tokens"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            seed=asked["seed"],
            report_to="none",
            save_strategy="no",
            show_progress_bar=False,
            **asked["settings"],
        )
        rows = Dataset.from_dict({"text": asked["texts"], "label": asked["labels"]})
        Trainer(model=model, args=arguments, train_dataset=rows).train()
    found = [
        model.predict_proba(part, as_numpy=True).tolist() if part else []
        for part in asked["queries"]
    ]
    return {"probabilities": found, "seconds": perf_counter() - started}


if __name__ == "__main__":
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # libraries print progress
        answer = fit(request)
    json.dump(answer, sys.stdout)
