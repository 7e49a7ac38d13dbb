"""User memory of idle keep-alive connections."""

import socket
import ssl
import time

from . import machine, tls

# Connections that come before those that are counted: they make the buffers and pools that any traffic makes.
WARM = 64
TRUSTING = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TRUSTING.check_hostname, TRUSTING.verify_mode = False, ssl.CERT_NONE


def idle(house, options):
    """RSS before and after opening connections that each made one request and then stay: plain, and over TLS."""
    gateway = house.ringway()
    house.route(gateway)
    gateway.wait_answers("/")
    tls.secured(house, {gateway.name: gateway})
    return [held_idle(gateway, options, case, port) for case, port in (("idle", None), ("idle-tls", gateway.tls_port))]


def held_idle(gateway, options, case, tls_port):
    before, after = held(gateway, options.connections, lambda number: asked(gateway, tls_port, number))
    return {
        "case": case,
        "peer": gateway.name,
        "conns": options.connections,
        "rss_before": before,
        "rss_after": after,
        "bytes_per_conn": round((after - before) / options.connections),
    }


def held(gateway, count, opened):
    """Resident bytes of the gateway before and while `count` connections are held, each made by `opened(number)`."""
    for connection in [opened(number) for number in range(WARM)]:
        connection.close()
    time.sleep(1)
    before = machine.resident_bytes(gateway.pids())
    connections = []
    for number in range(count):
        connections.append(opened(number))
        if number % 2000 == 1999:
            machine.say(f"  {number + 1} connections")
    time.sleep(1)
    after = machine.resident_bytes(gateway.pids())
    for connection in connections:
        connection.close()
    return before, after


def heard(connection, last, number):
    """What comes until it ends with `last`."""
    answer = b""
    while not answer.endswith(last):
        piece = connection.recv(4096)
        if not piece:
            raise RuntimeError(f"connection {number} was closed after {answer[:80]!r}")
        answer += piece
    return answer


def asked(gateway, tls_port, number):
    """A connection that has made one request; they come from several loopback addresses."""
    source = (f"127.0.0.{2 + number % 8}", 0)
    connection = socket.create_connection(("127.0.0.1", tls_port or gateway.port), 10, source)
    if tls_port:
        connection = TRUSTING.wrap_socket(connection, server_hostname="bench.test")
    connection.sendall(b"GET / HTTP/1.1\r\nHost: idle.test\r\n\r\n")
    heard(connection, b"body.\n", number)
    return connection
