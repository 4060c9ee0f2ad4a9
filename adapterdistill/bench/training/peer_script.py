# mypy: ignore-errors
"""Runs in the adapters library's environment, as a process of its own: imports nothing of ours.

Reads one JSON command a line and answers one JSON line. Holds an encoder with that library's
adapters, whose weights come from a file; times single training steps on demand, so that the two
sides take turns.
"""

import json
import sys
import time
from pathlib import Path

import adapters
import adapters.composition as ac
import torch
import torch.nn.functional as F
from adapters import SeqBnConfig
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, BertModel

TEMPERATURE = 0.05


class Peer:
    def __init__(self, command):
        torch.set_num_threads(command["threads"])
        config = AutoConfig.from_pretrained(command["model"], trust_remote_code=False)
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
        self.model = BertModel.from_pretrained(
            command["model"], config=config, trust_remote_code=False
        )
        adapters.init(self.model)
        self.names = command["adapters"]
        factor = config.hidden_size / command["bottleneck_size"]
        for name in [*self.names, "student"]:
            self.model.add_adapter(name, config=SeqBnConfig(reduction_factor=factor))
        self.load(command["weights"])
        rows = json.loads(Path(command["rows"]).read_text())
        longest = max(map(len, rows["ids"]))
        self.ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in rows["ids"]])
        self.mask = torch.tensor([[1] * len(i) + [0] * (longest - len(i)) for i in rows["ids"]])
        self.labels = torch.tensor(rows["labels"])
        self.optimizers = {}

    def load(self, path):
        missing = self.model.load_state_dict(load_file(path), strict=False)
        if missing.unexpected_keys:
            raise KeyError(f"{len(missing.unexpected_keys)} tensors have no place")

    def embed(self):
        hidden = self.model(input_ids=self.ids, attention_mask=self.mask).last_hidden_state
        mask = self.mask[:, :, None].float()
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    def loss(self):
        e = self.embed()
        itself = torch.eye(len(e), dtype=torch.bool)
        log_share = (e @ e.T / TEMPERATURE).masked_fill(itself, -torch.inf).log_softmax(-1)
        positive = (self.labels[:, None] == self.labels[None]) & ~itself
        count = positive.sum(-1)
        per_anchor = torch.where(positive, log_share, 0.0).sum(-1) / count.clamp(min=1)
        return -per_anchor.sum() / (count > 0).sum().clamp(min=1)

    def fuse(self, count):
        return ac.Fuse(*self.names[:count])

    def activate(self, kind, count):
        if kind == "own":
            self.model.train_adapter("student")
        else:
            if ",".join(self.names[:count]) not in self.model.adapters_config.fusions:
                self.model.add_adapter_fusion(self.fuse(count), "dynamic")
            self.model.train_adapter_fusion(self.fuse(count))

    def step(self, command):
        kind, count = command["kind"], command.get("count", 0)
        self.activate(kind, count)
        self.model.train()
        if (kind, count) not in self.optimizers:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            self.optimizers[kind, count] = torch.optim.AdamW(trained, lr=1e-4)
        optimizer = self.optimizers[kind, count]
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        if kind == "fusion":
            loss = loss + self.model.base_model.get_fusion_regularization_loss()
        loss.backward()
        optimizer.step()
        return {"seconds": time.perf_counter() - started}

    @torch.no_grad()
    def embeddings(self, command):
        """Embeddings with one adapter, or with a fusion whose Q, K, V come from a file."""
        if command.get("fusion"):
            self.activate("fusion", command["count"])
            self.load(command["fusion"])
        else:
            self.model.set_active_adapters(command["adapter"])
        self.model.eval()
        save_file({"embeddings": self.embed().contiguous()}, command["out"])
        return {}

    def trained(self, command):
        """Train the library's own adapter for some steps and write its state dict."""
        for _ in range(command["steps"]):
            self.step({"kind": "own"})
        state = self.model.state_dict()
        wanted = {n: t.contiguous() for n, t in state.items() if ".adapters.student." in n}
        save_file(wanted, command["out"])
        return {}


def main():
    peer = None
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "start":
            peer = Peer(command)
            answer = {"adapters": adapters.__version__, "torch": torch.__version__}
        else:
            answer = getattr(peer, command["do"])(command)
        print("answer " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
