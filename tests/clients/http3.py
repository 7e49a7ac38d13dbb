"""http3.py PORT SCENARIO [WORD…]: aioquic as a client of HTTP/3, at 127.0.0.1:PORT, asking for the host a.test.

It ends with 0 if all is as the scenario expects it; what a test has to know meanwhile is printed.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import sys
import time

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
from aioquic.tls import Epoch

PORT = int(sys.argv[1])
PATIENCE = 10


async def until(true):
    """Waits for what must come."""
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.005)


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
        if isinstance(event, ProtocolNegotiated) and not self.raw and self.http is None:
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

    def __init__(self, raw=False, server_name="a.test", early=False, alpn=("h3",), ticket=None, **options):
        self.raw, self.early, self.tickets = raw, early, []
        options |= {"session_ticket": ticket} if ticket else {}
        self.configuration = QuicConfiguration(
            is_client=True, alpn_protocols=list(alpn), server_name=server_name, verify_mode=ssl.CERT_NONE, **options
        )

    async def __aenter__(self):
        quic = QuicConnection(configuration=self.configuration, session_ticket_handler=self.tickets.append)
        _, self.client = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Client(quic, raw=self.raw), local_addr=("127.0.0.1", 0)
        )
        self.client.tickets = self.tickets
        if self.early:
            # what is asked for now leaves with the first datagrams
            self.client.http = H3Connection(quic)
            quic.connect(("127.0.0.1", PORT), now=asyncio.get_running_loop().time())
            return self.client
        self.client.connect(("127.0.0.1", PORT))
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
        await until(lambda: waiting.interim)
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


async def removed_trailers():
    async with Connected() as client:
        sent = [("x-secret", "1"), ("x-user", "you"), ("x-up", "2")]
        got = await client.answer("POST", "/", body=b"abc", trailers=sent)
        assert got.trailers == {b"x-sum": b"9"}, got.trailers


async def many():
    """1,000 requests, 100 at a time."""
    async with Connected() as client:
        for _ in range(10):
            for got in await asyncio.gather(*(client.answer(path=f"/{n}") for n in range(100))):
                assert got.status == 200 and got.body == b"served", (got.headers, got.body)
        # section 6.1: at least 100 at a time, but for an eighth that is not worth a frame
        await until(lambda: client._quic._remote_max_streams_bidi >= 1_087)


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
        await until(lambda: b"\x07\x01" in client.data.get(3, b""))
        # the one behind the slow one
        assert client.data[3].endswith(b"\x07\x01\x08"), client.data[3]
        print("goodbye", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        late = await client.answer(path="/late")
        assert late.reset == 0x10B, late.reset
        print("refused", flush=True)
        await asyncio.wait_for(slow.ended.wait(), PATIENCE)
        assert slow.status == 200 and slow.body == b"at last", slow.body
        ended = await asyncio.wait_for(client.closed, PATIENCE)
        assert ended.error_code == 0x100, ended


async def last(requests):
    """So many requests, and the connection says goodbye with the last and ends."""
    async with Connected() as client:
        for n in range(int(requests)):
            assert b"\x07\x01" not in client.data.get(3, b""), n
            assert (await client.answer()).status == 200
        await until(lambda: b"\x07\x01" in client.data.get(3, b""))
        assert client.data[3].endswith(b"\x07\x01" + bytes([4 * int(requests)])), client.data[3]
        late = client.ask("POST", "/late", end=False)
        await until(lambda: late.reset is not None and late.stopped is not None)
        assert late.reset == late.stopped == 0x10B, (late.reset, late.stopped)
        ended = await asyncio.wait_for(client.closed, PATIENCE)
        assert ended.error_code == 0x100, ended


async def wasted(client, times, kind):
    """So many requests that nobody wants: reset when they are there, or before."""
    for n in range(times):
        # not more at once than may be open
        if n % 10 == 0:
            await client.ping()
        stream = client.bidi()
        client.send(stream, HEAD if kind == "whole" else HEAD[:5])
        if kind == "whole":
            await asyncio.sleep(0.002)
        client._quic.reset_stream(stream, 0x10C)
        client._quic.stop_stream(stream, 0x10C)
        client.transmit()


async def wanted(client, times):
    for _ in range(times):
        stream = client.bidi()
        client.send(stream, frame(1, section(*GET[:3], (":path", "/ok"))), end=True)
        await asyncio.wait_for(client.stream(stream).ended.wait(), PATIENCE)
        assert client.data[stream].startswith(b"\1"), client.data[stream]


async def resets():
    """Of what is asked for some may be unwanted, most may not."""
    for kind in ("whole", "half"):
        async with Connected(raw=True) as client:
            await wasted(client, 195, kind)
            await wanted(client, 1)
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                await asyncio.wait_for(wasted(client, 15, kind), 2)
            ended = await asyncio.wait_for(client.closed, PATIENCE)
            assert ended.error_code == 0x107, (kind, ended)
    async with Connected(raw=True) as client:
        await wanted(client, 230)
        await wasted(client, 215, "whole")
        await wanted(client, 1)


async def idle():
    """Connections of which no request is under way end, those with one do not."""
    async with Connected() as client:
        slow = await client.answer(path="/slow")
        assert slow.status == 200, slow.headers
        ended = await asyncio.wait_for(client.closed, PATIENCE - 3)
        assert ended.error_code == 0x100, ended
    async with Connected() as client:
        ended = await asyncio.wait_for(client.closed, PATIENCE - 3)
        assert ended.error_code == 0x100, "nothing was ever asked"
    async with Connected(raw=True) as client:
        stream = client.bidi()
        client.send(stream, HEAD[:5])
        await asyncio.wait_for(client.stream(stream).ended.wait(), PATIENCE - 3)
        assert client.stream(stream).reset == 0x10D, "half a request"


async def move(client):
    """Another local address from now on: a NAT forgets, or a telephone leaves the house."""
    before = client._transport
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: client, local_addr=("127.0.0.1", 0))
    before.close()


async def migrate(connections):
    """They all survive a rebinding of their NAT, and a change of network."""

    async def one():
        async with Connected() as client:
            for change in (lambda: None, client.change_connection_id, client.change_connection_id):
                await move(client)
                change()
                got = await client.answer()
                assert got.status == 200, got.headers

    for _ in range(int(connections) // 10):
        await asyncio.gather(*(one() for _ in range(10)))


async def key_update():
    async with Connected() as client:
        for _ in range(3):
            client.request_key_update()
            await asyncio.wait_for(client.ping(), PATIENCE)
            got = await client.answer()
            assert got.status == 200


class Mute:
    """In place of a transport: nothing leaves."""

    def sendto(self, *_):
        pass


async def early():
    """A session that goes on brings its first requests with its first datagram, once."""
    async with Connected() as client:
        await client.answer(path="/first")
        await until(lambda: client.tickets)
        ticket, other = client.tickets[0], client.tickets[1]
        assert not client.handshake.session_resumed
    async with Connected(early=True, ticket=ticket) as client:
        safe, unsafe = client.ask(path="/early"), client.ask("POST", "/early", body=b"x")
        # once our part of the handshake has come, what came before is no replay: it stays here until the answers are there
        transport, client._transport = client._transport, Mute()
        for asked, status in ((safe, 200), (unsafe, 425)):
            await asyncio.wait_for(asked.ended.wait(), PATIENCE)
            assert asked.status == status, asked.headers
        client._transport = transport
        shaken = await asyncio.wait_for(client.shaken, PATIENCE)
        assert shaken.session_resumed and shaken.early_data_accepted, shaken
        # from now on it is a connection like any other
        assert (await client.answer("POST", "/late", body=b"x")).status == 200
    async with Connected(early=True, ticket=ticket) as client:
        again = client.ask(path="/replayed")
        shaken = await asyncio.wait_for(client.shaken, PATIENCE)
        assert not shaken.session_resumed and not shaken.early_data_accepted, shaken
        await asyncio.wait_for(again.ended.wait(), PATIENCE)
        assert again.status == 200
    async with Connected(ticket=other) as client:
        assert client.handshake.session_resumed
        assert (await client.answer(path="/resumed")).status == 200


async def names():
    """Who serves, and whom, follows from the name in the handshake."""
    for name, credentials, code in (
        ("unknown.test", None, 0x170),
        ("m.test", None, 0x174),
        ("m.test", sys.argv[3:5], None),
        ("a.test", None, None),
    ):
        connected = Connected(server_name=name)
        if credentials:
            connected.configuration.load_cert_chain(*credentials)
        async with connected as client:
            if code is None:
                got = await client.answer(authority=name)
                assert got.status == 200, (name, got.headers)
                # the other name wants a certificate that was shown to none, or to another
                other = "m.test" if name == "a.test" else "a.test"
                refused = await client.answer(authority=other)
                assert refused.status == (400 if other == "m.test" else 200), (other, refused.headers)
                continue
            ended = await asyncio.wait_for(client.closed, PATIENCE)
            assert ended.error_code == code, (name, ended)
    # a ClientHello of several packets
    async with Connected(quantum_readiness_test=True) as client:
        assert (await client.answer()).status == 200


async def crowd(half_open):
    """So many begin and never go on; then a client has to prove its address, and does."""
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(int(half_open)):
        quic = QuicConnection(configuration=Connected().configuration)
        quic.connect(("127.0.0.1", PORT), now=0)
        for datagram, to in quic.datagrams_to_send(now=0):
            sender.sendto(datagram, to)
        await asyncio.sleep(0.001)
    async with Connected() as client:
        assert client._quic._retry_source_connection_id is not None
        assert (await client.answer()).status == 200
    sender.close()


class Stray:
    """Datagrams with a short header that look like those of a connection that `client` had."""

    def __init__(self, client):
        peer = client._quic._peer_cid
        self.id, self.token = peer.cid, peer.stateless_reset_token
        assert len(self.token) == 16
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", PORT))
        self.socket.setblocking(False)

    async def answer(self, length):
        """What comes back within a moment; nothing: b""."""
        self.socket.send((b"\x41" + self.id + os.urandom(length))[:length])
        try:
            return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.socket, 2048), 0.05)
        except asyncio.TimeoutError:
            return b""

    async def reset(self, length):
        """A stateless reset (RFC 9000 section 10.3), which is asked for until it comes."""
        async with asyncio.timeout(PATIENCE):
            while not (got := await self.answer(length)):
                pass
        assert got.endswith(self.token) and got[0] & 0xC0 == 0x40, got
        assert len(got) < length, (len(got), length)
        return got


async def forgotten():
    """The connection has ended: its client may hear so by the token that it was given, and never by more than it sent."""
    async with Connected() as client:
        assert (await client.answer()).status == 200
        stray = Stray(client)
        assert await stray.answer(100) == b"", "the connection is there"
    for length in (1200, 100, 43, 22, 100):
        await stray.reset(length)
    # A reset in answer to the smallest of all would be as long: two ends could go on for ever.
    for _ in range(5):
        assert await stray.answer(21) == b""
    stray.id = os.urandom(len(stray.id))
    for _ in range(5):
        assert await stray.answer(100) == b"", "an ID that the gateway never gave"


async def orphaned():
    """The core has ended, after it said so."""
    async with Connected() as client:
        assert (await client.answer()).status == 200
        stray = Stray(client)
        print("answered", flush=True)
        await asyncio.wait_for(client.closed, PATIENCE)
    await stray.reset(100)


async def restarted():
    """The gateway is killed, and another one in its place."""
    connected = Connected()
    client = await connected.__aenter__()
    assert (await client.answer()).status == 200
    stray = Stray(client)
    print("answered", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await stray.reset(100)


def varint(value):
    for length, mark in ((1, 0), (2, 0x40), (4, 0x80), (8, 0xC0)):
        if value < 1 << (8 * length - 2):
            coded = bytearray(value.to_bytes(length, "big"))
            coded[0] |= mark
            return bytes(coded)
    raise ValueError(value)


def frame(kind, payload=b""):
    return varint(kind) + varint(len(payload)) + payload


def section(*fields):
    """Fields without any table, as they are given."""
    out = b"\0\0"
    for name, value in fields:
        head = bytes([0x20 | len(name)]) if len(name) < 7 else bytes([0x27, len(name) - 7])
        out += head + name.encode() + bytes([len(value)]) + value.encode()
    return out


GET = ((":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/"))
POST = ((":method", "POST"), *GET[1:])
HEAD = frame(1, section(*GET))
SETTINGS = frame(4)


def request(*pieces, end=False):
    return lambda client: client.send(client.bidi(), *pieces, end=end)


def beside(*pieces, end=False):
    """A unidirectional stream."""
    return lambda client: client.send(client.uni(), *pieces, end=end)


def control(*frames, end=False):
    return beside(b"\0", SETTINGS, *frames, end=end)


def twice(kind):
    def work(client):
        client.send(client.uni(), kind, SETTINGS if kind == b"\0" else b"")
        client.send(client.uni(), kind)

    return work


def reset_control(client):
    stream = client.uni()
    client.send(stream, b"\0", SETTINGS)
    asyncio.get_running_loop().call_later(0.1, lambda: (client._quic.reset_stream(stream, 0x100), client.transmit()))


def with_length(length, body):
    return request(frame(1, section(*POST, ("content-length", length))), frame(0, body), end=True)


# what ends a connection, and with which code (RFC 9114 section 8.1, RFC 9204 section 6)
FATAL = {
    "DATA before HEADERS": (request(frame(0, b"x")), 0x105),
    "SETTINGS among a request": (request(HEAD, SETTINGS), 0x105),
    "SETTINGS in place of a request": (request(SETTINGS), 0x105),
    "GOAWAY among a request": (request(HEAD, frame(7, b"\0")), 0x105),
    "MAX_PUSH_ID among a request": (request(HEAD, frame(13, b"\0")), 0x105),
    "CANCEL_PUSH among a request": (request(HEAD, frame(3, b"\0")), 0x105),
    "PUSH_PROMISE": (request(HEAD, frame(5, b"\0")), 0x105),
    "PRIORITY of HTTP/2": (request(HEAD, frame(2, b"12345")), 0x105),
    "PING of HTTP/2": (request(HEAD, frame(6, b"12345678")), 0x105),
    "WINDOW_UPDATE of HTTP/2": (request(HEAD, frame(8, b"1234")), 0x105),
    "CONTINUATION of HTTP/2": (request(HEAD, frame(9, b"1234")), 0x105),
    "DATA behind trailers": (request(frame(1, section(*POST)), frame(1, section(("a", "b"))), frame(0, b"x")), 0x105),
    "trailers twice": (request(frame(1, section(*POST)), *[frame(1, section(("a", "b")))] * 2), 0x105),
    "half a frame": (request(HEAD[:9], end=True), 0x106),
    "half a frame's head": (request(HEAD, b"\x40", end=True), 0x106),
    "half of DATA": (request(frame(1, section(*POST)), frame(0, b"12345")[:4], end=True), 0x106),
    "HEADERS without end": (request(varint(1) + varint(1 << 40)), 0x107),
    "no field section": (request(frame(1, b"\0\0\xff\xff")), 0x200),
    "a dynamic table that is not": (request(frame(1, b"\x02\0\x80")), 0x200),
    "no settings": (beside(b"\0", frame(7, b"\0")), 0x10A),
    "settings twice": (control(SETTINGS), 0x105),
    "a setting of HTTP/2": (beside(b"\0", frame(4, b"\x02\x01")), 0x109),
    "a setting twice": (beside(b"\0", frame(4, b"\x06\x01\x06\x01")), 0x109),
    "half a setting": (beside(b"\0", frame(4, b"\x06")), 0x106),
    "DATA on the control stream": (control(frame(0, b"x")), 0x105),
    "HEADERS on the control stream": (control(HEAD), 0x105),
    "GOAWAY that grows": (control(frame(7, b"\0"), frame(7, b"\4")), 0x108),
    "MAX_PUSH_ID that shrinks": (control(frame(13, b"\4"), frame(13, b"\0")), 0x108),
    "CANCEL_PUSH of nothing": (control(frame(3, b"\0")), 0x108),
    "GOAWAY of no length": (control(frame(7)), 0x106),
    "the control stream ends": (control(end=True), 0x104),
    "the control stream is reset": (reset_control, 0x104),
    "two control streams": (twice(b"\0"), 0x103),
    "two encoder streams": (twice(b"\2"), 0x103),
    "two decoder streams": (twice(b"\3"), 0x103),
    "a client that pushes": (beside(b"\1\0"), 0x103),
    "the encoder stream ends": (beside(b"\2", end=True), 0x104),
    "the decoder stream ends": (beside(b"\3", end=True), 0x104),
    "an insertion": (beside(b"\2", b"\x3f\xe1\x1f"), 0x201),
    "an acknowledgement of nothing": (beside(b"\3", b"\x84"), 0x202),
}

# what ends its stream alone
MALFORMED = {
    "no path": request(frame(1, section(*GET[:3])), end=True),
    "no method": request(frame(1, section(*GET[1:])), end=True),
    "two paths": request(frame(1, section(*GET, GET[3])), end=True),
    "a pseudo-header field behind others": request(frame(1, section(("a", "b"), *GET)), end=True),
    "an unknown one": request(frame(1, section(*GET, (":x", "1"))), end=True),
    "one of answers": request(frame(1, section(*GET, (":status", "200"))), end=True),
    "upper case": request(frame(1, section(*GET, ("X-Y", "1"))), end=True),
    "no token": request(frame(1, section(*GET, ("x y", "1"))), end=True),
    "a line end": request(frame(1, section(*GET, ("x", "1\r\ny: 2"))), end=True),
    "a field of connections": request(frame(1, section(*GET, ("connection", "close"))), end=True),
    "a coding of HTTP/1.1": request(frame(1, section(*GET, ("transfer-encoding", "chunked"))), end=True),
    "less than said": with_length("5", b"1234"),
    "more than said": with_length("3", b"1234"),
    "something where nothing was said": with_length("0", b"1234"),
    "a pseudo-header field in trailers": request(
        frame(1, section(*POST)), frame(0, b"x"), frame(1, section((":path", "/"))), end=True
    ),
}


async def conformance():
    """What a client must not do ends with the RFC's code."""
    for name, (work, code) in FATAL.items():
        async with Connected(raw=True) as client:
            work(client)
            ended = await asyncio.wait_for(client.closed, PATIENCE)
            assert ended.error_code == code, (name, hex(ended.error_code), ended)
    async with Connected(raw=True) as client:
        control()(client)
        stream = 0

        async def outcome():
            await asyncio.wait_for(client.stream(stream).ended.wait(), PATIENCE)
            return client.stream(stream)

        for name, work in MALFORMED.items():
            work(client)
            assert (await outcome()).reset == 0x10E, (name, client.stream(stream).reset)
            stream += 4
        request(end=True)(client)
        assert (await outcome()).reset == 0x10D, "no request at all"
        stream += 4
        # what means nothing is ignored
        beside(varint(0x21), b"whatever")(client)
        beside(b"\2", b"\x20")(client)
        beside(b"\3", b"\x44")(client)
        request(frame(0x21, b"noise"), HEAD, frame(0x40, b"noise" * 50_000), end=True)(client)
        assert (await outcome()).reset is None and client.data[stream].startswith(b"\1"), name


def far(client, sender, offset):
    """A byte at an offset of a stream, of those before it none, whatever the other end allows."""
    sender._buffer_start = sender._buffer_stop = offset
    sender.write(b"x")
    client._quic._remote_max_data = 1 << 40
    client.transmit()


def far_in_request(client, stream, offset):
    client.send(stream, frame(1, section(*POST)))
    opened = client._quic._streams[stream]
    opened.max_stream_data_remote = 1 << 40
    far(client, opened.sender, offset)


def many_streams(uni, last):
    """The last one opens all below it."""

    def work(client):
        client._quic._remote_max_streams_uni = client._quic._remote_max_streams_bidi = 1 << 40
        client.send(4 * last + (2 if uni else 0), b"\x21" if uni else HEAD)

    return work


def over_all_streams(bytes_of_last):
    def work(client):
        for stream in range(0, 16, 4):
            far_in_request(client, stream, (256 << 10) - 1)
        far_in_request(client, 16, bytes_of_last)

    return work


# what a client may do, and what is more than that (RFC 9000 section 20.1)
BOUNDS = {
    "requests at first": (many_streams(False, 39), many_streams(False, 40), 0x4),
    "unidirectional streams": (many_streams(True, 7), many_streams(True, 8), 0x4),
    "of a stream": (
        lambda client: far_in_request(client, 0, (256 << 10) - 1),
        lambda client: far_in_request(client, 0, 256 << 10),
        0x3,
    ),
    "of the connection": (lambda client: None, over_all_streams(200_000), 0x3),
    "of the handshake": (
        lambda client: far(client, client._quic._crypto_streams[Epoch.ONE_RTT].sender, (32 << 10) - 2),
        lambda client: far(client, client._quic._crypto_streams[Epoch.ONE_RTT].sender, 33 << 10),
        0xD,
    ),
    "of a control frame": (
        beside(b"\0", varint(4), varint(1 << 10)),
        beside(b"\0", varint(4), varint((1 << 10) + 1)),
        0x107,
    ),
}


async def bounds():
    """A client has what the handshake gives it, and ends its connection with more."""
    for name, (most, more, code) in BOUNDS.items():
        async with Connected(raw=True) as client:
            assert client._quic._remote_max_idle_timeout == 10, client._quic._remote_max_idle_timeout
            most(client)
            await client.ping()
            assert not client.closed.done(), name
        async with Connected(raw=True) as client:
            more(client)
            ended = await asyncio.wait_for(client.closed, PATIENCE)
            assert ended.error_code == code, (name, hex(ended.error_code), ended)
    # who has many requests open may open more
    async with Connected(raw=True) as client:
        for _ in range(20):
            request(HEAD)(client)
        await until(lambda: client._quic._remote_max_streams_bidi >= 100)
        many_streams(False, 99)(client)
        await client.ping()
        assert not client.closed.done()
        many_streams(False, 100)(client)
        ended = await asyncio.wait_for(client.closed, PATIENCE)
        assert ended.error_code == 0x4, ended


async def stall():
    """Asks for much, and goes away without a word when the first of it comes."""
    async with Connected(max_data=1 << 40, max_stream_data=1 << 40) as client:
        stream = client.ask()
        await asyncio.wait_for(stream.began.wait(), PATIENCE)
        print("stalled", flush=True)
        time.sleep(60)


async def half():
    """Begins a handshake and does not go on."""
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    quic = QuicConnection(configuration=Connected().configuration)
    quic.connect(("127.0.0.1", PORT), now=0)
    for datagram, to in quic.datagrams_to_send(now=0):
        sender.sendto(datagram, to)


async def websocket():
    """Extended CONNECT (RFC 9220) to an upstream that says `first` and then gives all back."""
    opened = lambda protocol: [(":protocol", protocol), ("sec-websocket-version", "13")]
    async with Connected() as client:
        await until(lambda: (client.http.received_settings or {}).get(8))
        stream = client.ask("CONNECT", "/ws", opened("websocket"), end=False)
        await asyncio.wait_for(stream.began.wait(), PATIENCE)
        assert stream.status == 200, stream.headers
        assert stream["sec-websocket-accept"] is None and stream["x-own"] == b"1", stream.headers
        sent = bytes(range(256)) * 4000
        client.http.send_data(stream.id, sent, end_stream=False)
        client.transmit()
        await until(lambda: len(stream.body) >= 5 + len(sent))
        assert stream.body == b"first" + sent
        for path, protocol, status in (("/plain", "websocket", 403), ("/ws", "connect-udp", 501)):
            refused = client.ask("CONNECT", path, opened(protocol), end=False)
            await asyncio.wait_for(refused.began.wait(), PATIENCE)
            assert refused.status == status, refused.headers
        client.http.send_data(stream.id, b"", end_stream=True)
        client.transmit()
        await asyncio.wait_for(stream.ended.wait(), PATIENCE)
        assert stream.reset is None, stream.reset
        other = client.ask("CONNECT", "/ws", opened("websocket"), end=False)
        await asyncio.wait_for(other.began.wait(), PATIENCE)
        client._quic.reset_stream(other.id, 0x10C)
        client.transmit()
        await asyncio.sleep(0.3)


async def websocket_drained(end):
    """A WebSocket goes on while the gateway drains, until it is closed (`closes`) or the drain is over (`stays`)."""
    async with Connected() as client:
        await until(lambda: (client.http.received_settings or {}).get(8))
        opened = [(":protocol", "websocket"), ("sec-websocket-version", "13")]
        stream = client.ask("CONNECT", "/ws", opened, end=False)
        await until(lambda: stream.body == b"first")
        print("open", flush=True)
        # GOAWAY on the control stream: the drain has begun
        await until(lambda: b"\x07\x01" in client.data.get(3, b""))
        client.http.send_data(stream.id, b"late", end_stream=False)
        client.transmit()
        await until(lambda: stream.body == b"firstlate")
        print("late", flush=True)
        if end == "closes":
            client.http.send_data(stream.id, b"", end_stream=True)
            client.transmit()
            await asyncio.wait_for(stream.ended.wait(), PATIENCE)
            assert stream.reset is None, stream.reset
            ended = await asyncio.wait_for(client.closed, PATIENCE)
            assert ended.error_code == 0x100, ended
        else:
            # nobody may take what it got for all there was
            finished = {asyncio.ensure_future(stream.ended.wait()), client.closed}
            await asyncio.wait(finished, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            assert client.closed.done() or stream.reset is not None, "it was cut"


SCENARIOS = {
    work.__name__: work
    for work in (last, resets, idle, requests, trailers, removed_trailers, many, large, drain, migrate, key_update, early, names, crowd, conformance, bounds, stall, half, websocket, websocket_drained, forgotten, orphaned, restarted)
}
if __name__ == "__main__":
    asyncio.run(SCENARIOS[sys.argv[2]](*([] if sys.argv[2] == "names" else sys.argv[3:])))
