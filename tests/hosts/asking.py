"""Asks one question again and again with the project's client, and prints each outcome as JSON.

Runs on a host until a file is there. Arguments: address, tenant, file of the token, question, and
the file that ends it.
"""

import json
import sys
import time
from pathlib import Path

import httpx

from adapterdistill.client import Client, SearchError

PAUSE_S = 0.05


def main(address: str, tenant: str, token_file: str, question: str, ends: str) -> None:
    with Client(address, tenant, token_file=token_file, timeout_s=5.0, retries=0) as client:
        while not Path(ends).exists():
            began, faq_id, reason = time.time(), None, None
            try:
                faq_id = client.search(question).ranked[0].faq_id
            except SearchError as error:
                reason = error.reason
            except httpx.HTTPError:
                reason = "UNREACHABLE"
            told = {"began": began, "ended": time.time(), "faq_id": faq_id, "reason": reason}
            print(json.dumps(told), flush=True)
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
