"""A client that a generator makes from the OpenAPI description asks a real endpoint."""

import json
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from adapterdistill.actors.cluster import free_port
from adapterdistill.backbone import Encoder
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.serve.tokens import Tokens, new_token
from tests.serving_store import make_tenant, put_live

USE = """
import sys
sys.path.insert(0, sys.argv[1])
from generated import AuthenticatedClient
from generated.api.search import search
from generated.api.state import create_embeddings, get_health, get_tenant
from generated.models import EmbeddingsRequest, ErrorBody, SearchRequest, SearchResponse

url, tenant_token, operator_token = sys.argv[2:]
acme = AuthenticatedClient(base_url=url, token=tenant_token)
body = SearchRequest(query="where is my parcel", top_k=2)
answer = search.sync("acme", client=acme, body=body)
assert isinstance(answer, SearchResponse) and len(answer.results[0].ranked) == 2
assert get_tenant.sync("acme", client=acme).adapter.version == answer.adapter.version
refused = search.sync("other", client=acme, body=body)
assert isinstance(refused, ErrorBody) and refused.reason == "UNAUTHENTICATED"
assert get_health.sync(client=acme).status == "ok"
operator = AuthenticatedClient(base_url=url, token=operator_token)
found = create_embeddings.sync(
    client=operator, body=EmbeddingsRequest(model="acme", input_=["how do I pay"])
)
assert found.adapter.version == answer.adapter.version and len(found.data) == 1
print("asked")
"""


@contextmanager
def endpoint(encoder: Encoder, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A served tenant; gives the URL, and a tenant's and an operator's token."""
    put_live(folder / "store", make_tenant(encoder, "acme", seed=1))
    tokens = folder / "tokens.json"
    held = [new_token(tokens, holder, days=1)[0] for holder in ("acme", None)]
    engine = Engine(encoder, folder / "store")
    engine.refresh()
    batcher = Batcher(engine.search, QueueLimits())
    api = build_api(engine, batcher, time.monotonic, tokens=Tokens(tokens), embeddings=True)
    (folder / "openapi.json").write_text(json.dumps(api.openapi()))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(api, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}", held
    server.should_exit = True
    thread.join()
    batcher.close()
    engine.close()


@pytest.mark.timeout(900)
def test_a_generated_client_asks_for_answers_and_embeddings(
    tiny_encoder: Encoder, tmp_path: Path
) -> None:
    venv.create(tmp_path / "environment", symlinks=True)
    bin_folder = tmp_path / "environment" / "bin"
    install = ["-m", "pip", "--disable-pip-version-check", "--python", str(bin_folder / "python")]
    done = subprocess.run(
        [sys.executable, *install, "install", "-q", "openapi-python-client"],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("openapi-python-client cannot be installed here")
    with endpoint(tiny_encoder, tmp_path) as (url, held):
        (tmp_path / "made.yaml").write_text(
            "project_name_override: generated\npackage_name_override: generated\npost_hooks: []\n"
        )
        for command in (
            [
                *(bin_folder / "openapi-python-client", "generate", "--fail-on-warning"),
                *("--path", "openapi.json", "--meta", "none", "--output-path", "generated"),
                *("--config", "made.yaml"),
            ],
            [bin_folder / "python", "-c", USE, str(tmp_path), url, *held],
        ):
            done = subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout == "asked\n"
