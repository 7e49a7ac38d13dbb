"""User memory of idle keep-alive connections."""

import socket
import ssl
import time

from . import machine, tls


def idle(house, options):
    """RSS before and after opening connections that each made one request and then stay: plain, and over TLS."""
    gateway = house.ringway()
    house.route(gateway)
    gateway.wait_answers("/")
    tls.secured(house, {gateway.name: gateway})
    return [held_idle(gateway, options, case, port) for case, port in (("idle", None), ("idle-tls", gateway.tls_port))]


def held_idle(gateway, options, case, tls_port):
    hold(gateway, 64, tls_port)  # warm: buffers and pools that any traffic makes
    before = machine.resident_bytes(gateway.pids())
    held = hold(gateway, options.connections, tls_port, keep=True)
    time.sleep(1)
    after = machine.resident_bytes(gateway.pids())
    for connection in held:
        connection.close()
    each = (after - before) / len(held)
    return {
        "case": case,
        "peer": gateway.name,
        "conns": len(held),
        "rss_before": before,
        "rss_after": after,
        "bytes_per_conn": round(each),
    }


def heard(connection, last, number):
    """What comes until it ends with `last`."""
    answer = b""
    while not answer.endswith(last):
        piece = connection.recv(4096)
        if not piece:
            raise RuntimeError(f"connection {number} was closed after {answer[:80]!r}")
        answer += piece
    return answer


def hold(gateway, count, tls_port=None, keep=False):
    """Opens `count` connections from several loopback addresses, one request on each."""
    held = []
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = b"GET / HTTP/1.1\r\nHost: idle.test\r\n\r\n"
    for number in range(count):
        source = (f"127.0.0.{2 + number % 8}", 0)
        connection = socket.create_connection(("127.0.0.1", tls_port or gateway.port), 10, source)
        if tls_port:
            connection = context.wrap_socket(connection, server_hostname="bench.test")
        connection.sendall(request)
        heard(connection, b"body.\n", number)
        held.append(connection)
        if number % 2000 == 1999:
            machine.say(f"  {number + 1} connections")
    if not keep:
        for connection in held:
            connection.close()
    return held
