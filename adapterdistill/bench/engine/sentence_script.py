# mypy: ignore-errors
"""Runs in sentence-transformers' environment, as a process of its own: imports nothing of ours.

Reads one JSON command a line and answers one JSON line. Encodes texts with one model in float32 and
in bfloat16, everything else at its defaults.
"""

import json
import sys
import time

import sentence_transformers
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

MODELS = {}


def start(command):
    torch.set_num_threads(command["threads"])
    for name in command["dtypes"]:
        dtype = {"model_kwargs": {"dtype": getattr(torch, name)}}
        MODELS[name] = SentenceTransformer(command["model"], device="cpu", **dtype)
    return {"version": sentence_transformers.__version__, "torch": torch.__version__}


def encode(command):
    started, worked = time.perf_counter(), time.process_time()
    found = MODELS[command["dtype"]].encode(command["texts"], show_progress_bar=False)
    seconds, processor_s = time.perf_counter() - started, time.process_time() - worked
    if command.get("out"):
        save_file({"embeddings": torch.as_tensor(found).float()}, command["out"])
    return {"seconds": seconds, "processor_seconds": processor_s}


def main():
    for line in sys.stdin:
        command = json.loads(line)
        answer = {"start": start, "encode": encode}[command["do"]](command)
        print("answer " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
