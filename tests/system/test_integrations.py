"""The retrievers and the action, each inside its framework, in an environment of its own."""

import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]

SERVER = """
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

sys.path.insert(0, {root!r})
from adapterdistill.client import AsyncClient, Client

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        [query] = body["queries"]
        ranked = [
            dict(faq_id="pay", question="How do I pay?", answer="By card.", score=0.75),
            dict(faq_id="ship", question="Where is it?", answer=None, score=0.5),
        ]
        result = dict(ranked=ranked[: body["top_k"]], abstained=query == "dentist", confidence=None)
        content = json.dumps(dict(tenant="acme", adapter=dict(version="v1"), results=[result]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"127.0.0.1:{{server.server_port}}"
client = Client(address, "acme")
"""

USES = {
    "langchain": """
import asyncio
from adapterdistill.integrations.langchain import FaqRetriever
from langchain_core.runnables import RunnableLambda
chain = FaqRetriever(client=client) | RunnableLambda(lambda found: [d.page_content for d in found])
assert chain.invoke("how to pay") == ["By card.", "Where is it?"]
assert chain.invoke("dentist") == []
[one] = FaqRetriever(client=client, top_k=1).invoke("how to pay")
assert one.metadata == {
    "faq_id": "pay", "question": "How do I pay?", "score": 0.75, "version": "v1"
}
async def later():
    async with AsyncClient(address, "acme") as async_client:
        for more in ({}, {"async_client": async_client}):
            found = await FaqRetriever(client=client, top_k=1, **more).ainvoke("how to pay")
            assert [d.page_content for d in found] == ["By card."]
asyncio.run(later())
""",
    "llama-index": """
from adapterdistill.integrations.llama_index import FaqRetriever
found = FaqRetriever(client).retrieve("how to pay")
assert [(n.node.id_, n.text, n.score) for n in found] == [
    ("pay", "By card.", 0.75), ("ship", "Where is it?", 0.5)
]
assert FaqRetriever(client).retrieve("dentist") == []
assert len(FaqRetriever(client, top_k=1).retrieve("how to pay")) == 1
""",
    "haystack": """
from haystack import Pipeline
from adapterdistill.integrations.haystack import FaqRetriever
pipeline = Pipeline()
pipeline.add_component("faqs", FaqRetriever(client))
found = pipeline.run({"faqs": {"query": "how to pay"}})["faqs"]["documents"]
assert [(d.id, d.content, d.score) for d in found] == [
    ("pay", "By card.", 0.75), ("ship", "Where is it?", 0.5)
]
assert pipeline.run({"faqs": {"query": "dentist"}})["faqs"]["documents"] == []
assert len(pipeline.run({"faqs": {"query": "pay", "top_k": 1}})["faqs"]["documents"]) == 1
""",
    "rasa": """
import asyncio
from adapterdistill.integrations.rasa import FaqAction
from rasa_sdk.executor import ActionExecutor, CollectingDispatcher
class AnswerFaq(FaqAction):
    client = AsyncClient(address, "acme")
executor = ActionExecutor()
executor.register_action(AnswerFaq)
async def ask(text):
    call = {
        "next_action": "action_answer_faq", "sender_id": "x", "domain": {},
        "tracker": {"sender_id": "x", "slots": {}, "latest_message": {"text": text}, "events": [],
                    "paused": False, "followup_action": None, "active_loop": {},
                    "latest_action_name": None, "latest_input_channel": None, "stack": []},
    }
    return (await executor.run(call)).responses
async def main():
    [one] = await ask("how to pay")
    assert one["text"] == "By card.", one
    for text in ("dentist", ""):
        [one] = await ask(text)
        assert one["response"] == "utter_default", one
    await AnswerFaq.client.close()
asyncio.run(main())
""",
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("extra", USES)
def test_a_framework_retrieves_a_tenants_faqs(extra: str, tmp_path: Path) -> None:
    venv.create(tmp_path / "environment", symlinks=True)
    python = tmp_path / "environment" / "bin" / "python"
    install = ["-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "-q"]
    done = subprocess.run(
        [sys.executable, *install, "httpx", *EXTRAS[extra]],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"{EXTRAS[extra]} cannot be installed here")
    code = SERVER.format(root=str(ROOT)) + USES[extra]
    done = subprocess.run(
        [python, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
