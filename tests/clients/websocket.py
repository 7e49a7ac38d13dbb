"""WebSockets through the gateway, over HTTP/1.1 and over HTTP/2: websocket.py GATEWAY_PORT SERVER_PORT

The server (the package websockets) listens on SERVER_PORT, where the gateway's upstream points. Its clients are the
package websockets, and for HTTP/2 the packages h2 and wsproto: two implementations that know nothing of ours.
"""

import queue
import socket
import sys
import threading

import h2.config
import h2.connection
import h2.events
import wsproto
import wsproto.events
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import serve

GATEWAY, SERVER = map(int, sys.argv[1:])
closed = queue.Queue()


def echo(peer):
    """Gives messages back; `close CODE REASON` ends with that."""
    try:
        for message in peer:
            if isinstance(message, str) and message.startswith("close "):
                _, code, reason = message.split(" ", 2)
                return peer.close(int(code), reason)
            peer.send(message)
    except ConnectionClosed:
        pass
    finally:
        closed.put((peer.protocol.close_code, peer.protocol.close_reason))


server = serve(echo, "127.0.0.1", SERVER, subprotocols=["chat"], max_size=None, compression=None)
threading.Thread(target=server.serve_forever, daemon=True).start()


class OverHttp2:
    """A client of RFC 8441."""

    def __init__(self, path):
        self.socket = socket.create_connection(("127.0.0.1", GATEWAY), timeout=10)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.ended = None
        self.flush()
        self.heads, self.bytes = [], b""
        while not self.http.remote_settings.enable_connect_protocol:
            self.read()
        self.stream = self.http.get_next_available_stream_id()
        self.http.send_headers(
            self.stream,
            [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "gate.test"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-protocol", "chat"),
            ],
        )
        self.flush()
        while not self.heads:
            self.read()
        self.head = dict(self.heads[0])
        self.ws = wsproto.connection.Connection(wsproto.connection.ConnectionType.CLIENT)

    def flush(self):
        self.socket.sendall(self.http.data_to_send())

    def read(self):
        data = self.socket.recv(1 << 16)
        assert data, "the connection ends"
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.heads.append(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.bytes += event.data
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended = "end"
            elif isinstance(event, h2.events.StreamReset):
                self.ended = self.ended or event.error_code
        self.flush()

    def send(self, event):
        data = self.ws.send(event)
        while data:
            room = min(self.http.local_flow_control_window(self.stream), self.http.max_outbound_frame_size)
            if room == 0:
                self.read()
                continue
            self.http.send_data(self.stream, data[:room])
            data = data[room:]
            self.flush()

    def receive(self):
        """The next whole message, or what closes."""
        parts = []
        while True:
            for event in self.ws.events():
                if not isinstance(event, wsproto.events.Message):
                    return event
                parts.append(event.data)
                if event.message_finished:
                    return parts[0][:0].join(parts)
            while not self.bytes:
                self.read()
            data, self.bytes = self.bytes, b""
            self.ws.receive_data(data)

    def end(self):
        """Our end; the gateway's comes, too."""
        self.http.end_stream(self.stream)
        self.flush()
        while self.ended is None:
            self.read()
        return self.ended


LARGE = bytes(range(256)) * (8 << 10)

with connect(f"ws://127.0.0.1:{GATEWAY}/chat", subprotocols=["chat"], max_size=None, compression=None) as peer:
    assert peer.subprotocol == "chat"
    for message in ("hello", "\u00e4" * 1000, b"\0\1\2", LARGE):
        peer.send(message)
        assert peer.recv(timeout=10) == message
    assert peer.ping().wait(10), "a pong comes back"
    peer.close(4001, "mine")
assert closed.get(timeout=10) == (4001, "mine")

with connect(f"ws://127.0.0.1:{GATEWAY}/chat", subprotocols=["chat"]) as peer:
    peer.send("close 4002 yours")
    try:
        peer.recv(timeout=10)
        raise SystemExit("not closed")
    except ConnectionClosed as end:
        assert (end.rcvd.code, end.rcvd.reason) == (4002, "yours"), end
closed.get(timeout=10)

client = OverHttp2("/chat")
assert client.head[":status"] == "200", client.head
assert client.head["sec-websocket-protocol"] == "chat", client.head
hop = {"connection", "upgrade", "sec-websocket-accept", "content-length", "transfer-encoding"} & set(client.head)
assert not hop, hop
client.send(wsproto.events.TextMessage("hello"))
assert client.receive() == "hello"
client.send(wsproto.events.BytesMessage(LARGE))
assert client.receive() == LARGE
client.send(wsproto.events.Ping(b"?"))
assert client.receive().payload == b"?"
client.send(wsproto.events.CloseConnection(4003, "mine"))
end = client.receive()
assert (end.code, end.reason) == (4003, "mine"), end
assert client.end() == "end"
assert closed.get(timeout=10) == (4003, "mine")

client = OverHttp2("/chat")
client.send(wsproto.events.TextMessage("close 4004 yours"))
end = client.receive()
assert (end.code, end.reason) == (4004, "yours"), end
client.send(end.response())
assert client.end() == "end"
assert closed.get(timeout=10) == (4004, "yours")

# no such route, and one that has no WebSockets
assert OverHttp2("/none").head[":status"] == "404"
assert OverHttp2("/plain").head[":status"] == "403"
print("done")
