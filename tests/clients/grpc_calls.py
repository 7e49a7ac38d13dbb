"""All four kinds of gRPC calls through the gateway, by grpcio: grpc_calls.py GATEWAY_PORT SERVER_PORT [PEM KEY [CA]]

The server listens on SERVER_PORT, where the gateway's upstream points; with PEM and KEY it has TLS, with CA its clients must
show a certificate, too. Messages are bytes as they are.
"""

import sys
import threading
import time
from concurrent import futures

import grpc

gateway, server_port, *certificates = sys.argv[1:]
seen = {"cancelled": threading.Event(), "left": None, "peers": set()}


def metadata(context):
    return dict(context.invocation_metadata())


def unary(request, context):
    seen["peers"].add(context.peer())
    context.send_initial_metadata([("x-begin", "1")])
    context.set_trailing_metadata([("x-end", "2"), ("x-asked", metadata(context).get("x-ask", "")), ("x-bin", b"\0\xff")][:2])
    return request + b"!"


def count(request, context):
    for n in range(int(request)):
        yield b"%d" % n


def total(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def echo(requests, context):
    for request in requests:
        yield request


def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "nothing: 100% \u00e4")


def slow(request, context):
    seen["left"] = context.time_remaining()
    context.add_callback(seen["cancelled"].set)
    time.sleep(2)
    return b"late"


def endless(request, context):
    context.add_callback(seen["cancelled"].set)
    while context.is_active():
        yield b"x" * 1000
        time.sleep(0.01)


KINDS = {
    "unary": grpc.unary_unary_rpc_method_handler(unary),
    "count": grpc.unary_stream_rpc_method_handler(count),
    "total": grpc.stream_unary_rpc_method_handler(total),
    "echo": grpc.stream_stream_rpc_method_handler(echo),
    "fail": grpc.unary_unary_rpc_method_handler(fail),
    "slow": grpc.unary_unary_rpc_method_handler(slow),
    "endless": grpc.unary_stream_rpc_method_handler(endless),
}

LARGE = [("grpc.max_receive_message_length", 64 << 20), ("grpc.so_reuseport", 0)]
server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=LARGE)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Calls", KINDS),))
address = "127.0.0.1:" + server_port
if certificates:
    pem, key, *ca = (open(path, "rb").read() for path in certificates)
    shown = grpc.ssl_server_credentials([(key, pem)], *(ca or [None]), require_client_auth=bool(ca))
    bound = server.add_secure_port(address, shown)
else:
    bound = server.add_insecure_port(address)
assert bound == int(server_port)
server.start()
channel = grpc.insecure_channel("127.0.0.1:" + gateway, options=LARGE)

call = channel.unary_unary("/test.Calls/unary")
answer, info = call.with_call(b"hello", metadata=[("x-ask", "me")], timeout=10)
assert answer == b"hello!", answer
assert dict(info.initial_metadata())["x-begin"] == "1"
assert dict(info.trailing_metadata()) | {"x-end": "2", "x-asked": "me"} == dict(info.trailing_metadata())

large = bytes(range(256)) * (20 << 12)
assert channel.unary_unary("/test.Calls/unary")(large, timeout=60) == large + b"!"

assert list(channel.unary_stream("/test.Calls/count")(b"1000", timeout=20)) == [b"%d" % n for n in range(1000)]
pieces = (b"y" * 10_000 for _ in range(300))
assert channel.stream_unary("/test.Calls/total")(pieces, timeout=20) == b"3000000"

# one message up, its answer down, and only then the next: nothing may wait for the end of a body
turn = threading.Semaphore(1)


def in_turn():
    for n in range(50):
        assert turn.acquire(timeout=10)
        yield b"%d" % n


for n, answer in enumerate(channel.stream_stream("/test.Calls/echo")(in_turn(), timeout=20)):
    assert answer == b"%d" % n, answer
    turn.release()
assert n == 49, n

try:
    channel.unary_unary("/test.Calls/fail")(b"", timeout=10)
    raise SystemExit("no error")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
    assert error.details() == "nothing: 100% \u00e4", error

try:
    channel.unary_unary("/test.Calls/none")(b"", timeout=10)
    raise SystemExit("no error")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error

try:
    channel.unary_unary("/test.Calls/slow")(b"", timeout=0.5)
    raise SystemExit("no error")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
assert 0 < seen["left"] < 0.6, seen
assert seen["cancelled"].wait(5), "the upstream hears that nobody waits"

seen["cancelled"].clear()
stream = channel.unary_stream("/test.Calls/endless")(b"", timeout=30)
assert next(stream) == b"x" * 1000
stream.cancel()
assert seen["cancelled"].wait(5), "the upstream hears of the cancellation"

# many at once share the upstream's connections
calls = [channel.unary_unary("/test.Calls/unary").future(b"%d" % n, timeout=30) for n in range(500)]
assert [call.result() for call in calls] == [b"%d!" % n for n in range(500)]
assert len(seen["peers"]) <= 12, seen["peers"]

# what the gateway refuses itself
for method, code, details in (
    ("/test.None/unary", grpc.StatusCode.UNIMPLEMENTED, "HTTP status 404"),
    ("/test.Refused/unary", grpc.StatusCode.PERMISSION_DENIED, "HTTP status 403"),
):
    try:
        channel.unary_unary(method)(b"", timeout=10)
        raise SystemExit("no error")
    except grpc.RpcError as error:
        assert (error.code(), error.details()) == (code, details), error

# the upstream is gone
server.stop(0).wait()
try:
    channel.unary_unary("/test.Calls/unary")(b"", timeout=10)
    raise SystemExit("no error")
except grpc.RpcError as error:
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "HTTP status 502"), error
print("done")
