"""http3.py PORT SCENARIO [WORD…]: aioquic as a client of HTTP/3, at 127.0.0.1:PORT, asking for the host a.test.

It ends with 0 if all is as the scenario expects it; what a test has to know meanwhile is printed.
"""

import asyncio
import socket
import ssl
import sys

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    ProtocolNegotiated,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

PORT = int(sys.argv[1])
PATIENCE = 10


class Stream:
    def __init__(self):
        self.headers, self.trailers, self.interim, self.body = None, None, [], bytearray()
        self.ended = asyncio.Event()
        self.began = asyncio.Event()
        self.reset = self.stopped = None

    @property
    def status(self):
        return int(dict(self.headers)[b":status"])

    def __getitem__(self, name):
        return dict(self.headers).get(name.encode())


class Client(QuicConnectionProtocol):
    """`raw`: frames are written and read by the scenario itself."""

    def __init__(self, quic, stream_handler=None, raw=False):
        super().__init__(quic, stream_handler)
        self.raw, self.http, self.streams, self.data = raw, None, {}, {}
        self.closed = asyncio.get_running_loop().create_future()
        self.shaken = asyncio.get_running_loop().create_future()

    def stream(self, of):
        return self.streams.setdefault(of, Stream())

    def quic_event_received(self, event):
        if isinstance(event, ProtocolNegotiated) and not self.raw:
            self.http = H3Connection(self._quic)
        if isinstance(event, HandshakeCompleted) and not self.shaken.done():
            self.shaken.set_result(event)
        if isinstance(event, ConnectionTerminated):
            self.closed.set_result(event)
            if not self.shaken.done():
                self.shaken.set_result(None)
            for stream in self.streams.values():
                stream.ended.set()
                stream.began.set()
        if isinstance(event, StreamDataReceived) and (self.raw or event.stream_id == 3):
            self.data[event.stream_id] = self.data.get(event.stream_id, b"") + event.data
            if self.raw and event.end_stream:
                self.stream(event.stream_id).ended.set()
        if isinstance(event, StreamReset):
            self.stream(event.stream_id).reset = event.error_code
            self.stream(event.stream_id).ended.set()
        if isinstance(event, StopSendingReceived):
            self.stream(event.stream_id).stopped = event.error_code
        if self.http is not None:
            for seen in self.http.handle_event(event):
                stream = self.stream(seen.stream_id)
                if isinstance(seen, HeadersReceived):
                    if stream.headers is not None:
                        stream.trailers = dict(seen.headers)
                    elif dict(seen.headers)[b":status"].startswith(b"1"):
                        stream.interim.append(int(dict(seen.headers)[b":status"]))
                    else:
                        stream.headers = seen.headers
                        stream.began.set()
                if isinstance(seen, DataReceived):
                    stream.body += seen.data
                if seen.stream_ended:
                    stream.ended.set()

    # with HTTP/3

    def ask(self, method="GET", path="/", fields=(), body=b"", trailers=(), authority="a.test", end=True):
        stream = self._quic.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path), *fields]
        code = lambda fields: [(name.encode(), value.encode()) for name, value in fields]
        more = body or trailers or not end
        self.http.send_headers(stream, code(head), end_stream=not more)
        if body:
            self.http.send_data(stream, body, end_stream=end and not trailers)
        if trailers:
            self.http.send_headers(stream, code(trailers), end_stream=True)
        self.transmit()
        self.stream(stream).id = stream
        return self.stream(stream)

    async def answer(self, *args, **more):
        stream = self.ask(*args, **more)
        await asyncio.wait_for(stream.ended.wait(), PATIENCE)
        return stream

    # without

    def send(self, stream, *pieces, end=False):
        self._quic.send_stream_data(stream, b"".join(pieces), end)
        self.transmit()

    def bidi(self):
        return self._quic.get_next_available_stream_id()

    def uni(self):
        stream = self._quic.get_next_available_stream_id(is_unidirectional=True)
        self._quic.send_stream_data(stream, b"", False)
        return stream


class Connected:
    """async with Connected(…) as client: the connection is up, and closed at the end."""

    def __init__(self, raw=False, server_name="a.test", wait=True, alpn=("h3",), **options):
        self.raw, self.wait = raw, wait
        self.configuration = QuicConfiguration(
            is_client=True, alpn_protocols=list(alpn), server_name=server_name, verify_mode=ssl.CERT_NONE, **options
        )

    async def __aenter__(self):
        quic = QuicConnection(configuration=self.configuration, **getattr(self, "handlers", {}))
        _, self.client = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Client(quic, raw=self.raw), local_addr=("127.0.0.1", 0)
        )
        self.client.connect(("127.0.0.1", PORT))
        if self.wait:
            self.client.handshake = await asyncio.wait_for(self.client.shaken, PATIENCE)
        return self.client

    async def __aexit__(self, *_):
        self.client.close()
        if not self.client.closed.done():
            await asyncio.wait_for(self.client.closed, PATIENCE)
        self.client._transport.close()


async def requests():
    """All that passes in both directions."""
    async with Connected() as client:
        got = await client.answer(path="/p?q=1", fields=[("cookie", "a=1"), ("x-order", "1"), ("cookie", "b=2")])
        assert got.status == 200, got.headers
        assert got.body.startswith(b"GET /p?q=1 HTTP/1.1\r\n"), got.body
        assert b"\r\nCookie: a=1; b=2\r\n" in got.body or b"\r\ncookie: a=1; b=2\r\n" in got.body, got.body
        assert got["connection"] is None and got["transfer-encoding"] is None
        assert got["content-length"] == b"%d" % len(got.body)
        missing = await client.answer(authority="other.test")
        print(missing.status)
        body = bytes(range(256)) * 4096
        sent = await client.answer("POST", "/body", body=body)
        assert sent.status == 200, sent.headers
        counted = await client.answer("POST", "/counted", fields=[("content-length", "5")], body=b"12345")
        assert counted.status == 200
        waiting = client.ask("POST", "/waits", fields=[("expect", "100-continue")], end=False)
        while not waiting.interim:
            await asyncio.sleep(0.01)
        assert waiting.interim == [100], waiting.interim
        client.http.send_data(waiting.id, b"now", end_stream=True)
        client.transmit()
        await asyncio.wait_for(waiting.ended.wait(), PATIENCE)
        assert waiting.status == 200


async def trailers():
    async with Connected() as client:
        got = await client.answer("POST", "/", body=b"abc", trailers=[("x-sum", "6")])
        assert got.status == 200 and got.body == b"abc", (got.headers, got.body)
        assert got.trailers == {b"x-sum": b"9"}, got.trailers


async def many():
    """1,000 requests, 100 at a time."""
    async with Connected() as client:
        for _ in range(10):
            for got in await asyncio.gather(*(client.answer(path=f"/{n}") for n in range(100))):
                assert got.status == 200 and got.body == b"served", (got.headers, got.body)


async def large():
    """An answer of many windows, whole."""
    async with Connected() as client:
        got = await client.answer()
        assert got.status == 200 and len(got.body) == 8_000_000, len(got.body)
        assert got.body == bytes(range(250)) * 32_000


async def drain():
    """What was begun goes on, nothing new begins."""
    async with Connected() as client:
        before = await client.answer(path="/fast")
        assert before.status == 200
        slow = client.ask(path="/slow")
        print("asked", flush=True)
        while b"\x07" not in client.data.get(3, b""):
            await asyncio.sleep(0.01)
        # the one behind the slow one
        assert client.data[3].endswith(b"\x07\x01\x08"), client.data[3]
        print("goodbye", flush=True)
        late = await client.answer(path="/late")
        assert late.reset == 0x10B, late.reset
        await asyncio.wait_for(slow.ended.wait(), PATIENCE)
        assert slow.status == 200 and slow.body == b"at last", slow.body
        ended = await asyncio.wait_for(client.closed, PATIENCE)
        assert ended.error_code == 0x100, ended


SCENARIOS = {work.__name__: work for work in (requests, trailers, many, large, drain)}
if __name__ == "__main__":
    asyncio.run(SCENARIOS[sys.argv[2]](*sys.argv[3:]))
