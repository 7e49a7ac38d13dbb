"""A fixed number of requests, one after the other: for what is counted, not timed."""

import re
import socket


class Client:
    """One client of a gateway, on a connection kept alive unless the headers close it."""

    def __init__(self, peer, path="/", headers=()):
        self.address, self.connection = ("127.0.0.1", peer.port), None
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{peer.port}", *headers, "", ""]
        self.request = "\r\n".join(lines).encode()

    def send(self, count):
        """Sends `count` requests, waits for every answer, and fails at one that is not a 200."""
        for _ in range(count):
            if self.connection is None:
                self.connection = socket.create_connection(self.address, 30)
            self.connection.sendall(self.request)
            head, body = b"", b""
            while b"\r\n\r\n" not in head:
                head += self.piece()
            head, body = head.split(b"\r\n\r\n", 1)
            length = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"a request of known cost was answered with {head[:200]!r}")
            # with no length the body is chunked, and its last chunk is empty
            while len(body) < int(length[1]) if length else not body.endswith(b"0\r\n\r\n"):
                body += self.piece()
            if re.search(rb"(?i)^connection: *close", head, re.MULTILINE):
                self.close()

    def piece(self):
        piece = self.connection.recv(65536)
        if not piece:
            raise RuntimeError("the gateway closed the connection in the middle of an answer")
        return piece

    def close(self):
        if self.connection:
            self.connection.close()
            self.connection = None
