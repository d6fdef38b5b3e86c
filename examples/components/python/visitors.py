"""A web page that counts its visitors: answers HTTP requests, keeps the count in a key-value store."""

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import atomics, store
from wit_world.imports.logging import Level, log
from wit_world.imports.types import Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        # A browser also asks for an icon: it is no visitor.
        if request.path_with_query() != "/":
            return answer(response_out, 404, "No such page.\n")
        try:
            n = atomics.increment(store.open("default"), "visitors", 1)
        except Err as error:
            return answer(response_out, 502, f"The visitors cannot be counted: {error.value}\n")
        log(Level.INFO, "", f"visitor {n}")
        answer(response_out, 200, f"<!doctype html><title>Visitors</title>You are visitor {n}.\n")


def answer(out: ResponseOutparam, status: int, text: str) -> None:
    response = OutgoingResponse(Fields.from_list([("content-type", b"text/html; charset=utf-8")]))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(out, Ok(response))
    with body.write() as stream:
        stream.blocking_write_and_flush(text.encode())
    OutgoingBody.finish(body, None)
