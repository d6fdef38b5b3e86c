"""Answers with what it was asked. Some paths do something else:

* `/count/KEY` counts under a key of the key-value store;
* `/keep/KEY` keeps the body in Spin's store, and lists what is there;
* `/served` tells how many requests this instance has answered;
* `/here` tells how many others it answers now, and `/meet` waits for a second one in it;
* `/fetch?URL` gets a page of another server;
* `/compute` and `/sleep` never come to an end, and `/fail` ends the instance.
"""

from componentize_py_types import Err
from spin_sdk import http, key_value, util
from spin_sdk.http import Request, Response
from spin_sdk.wit.imports.wasi_cli_exit_0_2_6 import exit
from spin_sdk.wit.imports.wasi_clocks_monotonic_clock_0_3_0 import wait_for
from spin_sdk.wit.imports.wasi_keyvalue_atomics_0_2_0_draft2 import increment
from spin_sdk.wit.imports.wasi_keyvalue_store_0_2_0_draft2 import open

HOUR_NS = 3600 * 10**9
MILLISECOND_NS = 10**6

served = 0
here = 0
met = 0


class HttpHandler(http.Handler):
    async def handle_request(self, request: Request) -> Response:
        global served, here
        served += 1
        here += 1
        try:
            return await self.answered(request)
        finally:
            here -= 1

    async def answered(self, request: Request) -> Response:
        if request.uri == "/served":
            return answer(f"{served}")
        if request.uri.startswith("/keep/"):
            return await keep(request.uri.removeprefix("/keep/"), request.body)
        if request.uri.startswith("/count/"):
            return answer(f"{increment(open('default'), request.uri.removeprefix('/count/'), 1)}")
        if request.uri.startswith("/fetch?"):
            return await http.send(Request("GET", request.uri.removeprefix("/fetch?"), {}, None))
        if request.uri == "/here":
            return answer(f"{here - 1}")
        if request.uri == "/meet":
            return await meet()
        if request.uri == "/fail":
            exit(Err(None))
        if request.uri == "/compute":
            while True:
                pass
        if request.uri == "/sleep":
            await wait_for(HOUR_NS)
        if request.method == "POST":
            return Response(201, {"x-length": str(len(request.body))}, request.body)
        return answer(f"Hello from the Spin Python SDK: {request.method} {request.uri}")


async def meet() -> Response:
    global met
    met += 1
    while met < 2:
        await wait_for(MILLISECOND_NS)
    return answer("met")


async def keep(key: str, value: bytes) -> Response:
    store = await key_value.open_default()
    await store.set(key, value)
    is_kept = await store.get(key) == value
    keys = await util.collect(await store.get_keys())
    return answer(f"{is_kept} {key in keys}")


def answer(text: str) -> Response:
    return Response(200, {"content-type": "text/plain"}, text.encode())
