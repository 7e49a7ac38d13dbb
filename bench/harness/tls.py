"""TLS, HTTP/2 and gRPC towards clients, beside nginx, HAProxy and Envoy; many certificates."""

import json
import os
import re
import socket
import ssl
import subprocess
import time

from . import configuration, machine, measure, peers

# Keys are costly to make and all alike to read: so many certificates are shared by all names.
CERTIFICATES = 16


def secured(house, started):
    """The peers that speak TLS; gateways get the certificate that nginx has."""
    targets = {}
    for name, peer in started.items():
        if isinstance(peer, peers.Gateway) and hasattr(peer, "tls_port"):
            pem = {}
            for part, file in (("cert", "tls.pem"), ("key", "tls.key")):
                with open(os.path.join(house.directory, file)) as text:
                    pem[part] = text.read()
            # wrk sends the address as the server's name, which RFC 6066 does not allow
            peer.put("ssls/1?wait=5000", {**pem, "snis": ["bench.test", "127.0.0.1"]})
        if hasattr(peer, "tls_port"):
            targets[name] = (peers.Secure(peer), "/")
    return targets


def tls(house, options, started):
    """HTTP/1.1 over TLS on connections that stay; then a handshake for each request."""
    targets = secured(house, started)
    rows = measure.interleave("tls", targets, 64, 100, options)
    rows += measure.interleave("handshake", targets, 64, 100, options, ["Connection: close"])
    for case, more in (("full", ["--full"]), ("resumed", [])):
        rows += measure.interleave(case, targets, 16, 100, options, load=Handshakes(house, more))
    return rows


class Handshakes:
    """bench/load3's `resume`: a TLS 1.3 handshake for each request, resumed or full."""

    def __init__(self, house, more):
        self.program, self.more = house.cargo("bench/load3", "resume"), more

    def __call__(self, url, conns, seconds, headers=(), prefix=()):
        server, path = re.fullmatch(r"https://([^/]+)(/.*)", url).groups()
        command = [*prefix, "taskset", "-c", machine.LOAD_CORE, self.program, server, path, *self.more]
        command += ["--connections", str(conns), "--seconds", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise measure.LoadFailed(f"{url}: {done.stderr[-500:]}")
        said = json.loads(done.stdout)
        good = said["full"] + said["resumed"]
        # the first of each thread has nothing to resume
        other = said["resumed"] if self.more else said["full"] - conns
        if good == 0 or said["failed"] or other > good / 100:
            raise measure.LoadFailed(f"{url}: {done.stdout}")
        return good, said["rps"], done.stderr


def http2(house, options, started):
    """HTTP/2 over TLS to HTTP/1.1 upstream: ten connections of a hundred streams."""
    machine.need(["h2load"])
    return measure.interleave("http2", secured(house, started), 10, 100, options, load=measure.h2load)


def grpc(house, options, started):
    """Unary calls without TLS on both sides: ten connections of a hundred streams, a message of 100 bytes each way."""
    machine.need(["h2load"])
    gateways = [peer for peer in started.values() if isinstance(peer, peers.Gateway)]
    for gateway in gateways:
        upstream = {"type": "roundrobin", "scheme": "grpc", "nodes": {f"127.0.0.1:{house.grpc}": 1}}
        gateway.put("routes/calls?wait=5000", {"uri": "/call", "priority": 10, "upstream": upstream})
    targets = {name: (peers.Calls(peer), "/call") for name, peer in started.items() if name != "haproxy"}
    headers = ["content-type: application/grpc", "te: trailers"]
    message = os.path.join(house.directory, "call")
    load = lambda *asked: measure.h2load(*asked, more=["-d", message])  # noqa: E731
    return measure.interleave("grpc", targets, 10, 100, options, headers, "envoy", load)


def idle_h2(house, options):
    """User memory of HTTP/2 connections over TLS that each made one request and then stay."""
    gateway = house.ringway()
    house.route(gateway)
    gateway.wait_answers("/")
    secured(house, {gateway.name: gateway})
    close(hold_h2(gateway, 64))
    before = machine.resident_bytes(gateway.pids())
    held = hold_h2(gateway, options.connections)
    time.sleep(1)
    after = machine.resident_bytes(gateway.pids())
    close(held)
    each = round((after - before) / len(held))
    return [{"case": "idle2", "peer": gateway.name, "conns": len(held), "rss_before": before, "rss_after": after, "bytes_per_conn": each}]


def close(held):
    for connection in held:
        connection.close()


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def hold_h2(gateway, count):
    """Opens `count` connections from several loopback addresses, one request on each."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    name = b"bench.test"
    block = b"\x82\x87\x84\x41" + bytes([len(name)]) + name  # GET, https, /, :authority
    asked = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + frame(1, 5, 1, block)
    held = []
    for number in range(count):
        source = (f"127.0.0.{2 + number % 8}", 0)
        plain = socket.create_connection(("127.0.0.1", gateway.tls_port), 10, source)
        connection = context.wrap_socket(plain, server_hostname="bench.test")
        connection.sendall(asked)
        read_answer(connection, number)
        connection.sendall(frame(4, 1, 0))
        held.append(connection)
        if number % 2000 == 1999:
            machine.say(f"  {number + 1} connections")
    return held


def read_answer(connection, number):
    """Reads frames until the end of stream 1."""
    got = b""
    while True:
        while len(got) < 9 or len(got) < 9 + int.from_bytes(got[:3], "big"):
            piece = connection.recv(4096)
            if not piece:
                raise RuntimeError(f"connection {number} was closed")
            got += piece
        length, kind, flags = int.from_bytes(got[:3], "big"), got[3], got[4]
        if kind in (3, 7):
            raise RuntimeError(f"connection {number}: {got[:9 + length]!r}")
        if kind in (0, 1) and flags & 1:
            return
        got = got[9 + length:]


def certificates(house, options):
    """Many ssl objects: how long a start takes until the last of them serves, and what one costs of memory."""
    empty = configuration.resident_when_empty(house, 1)
    gateway = house.ringway()
    house.route(gateway)
    pairs = [pair(house.directory, number) for number in range(CERTIFICATES)]
    machine.say(f"  writing {options.certificates} certificates")
    fill_ssls(gateway, options.certificates, pairs)
    data = gateway.data
    house.stop(gateway)
    rows = []
    for number in range(max(options.rounds, 1)):
        begun = time.monotonic()
        gateway = house.ringway(data=data)
        serves(gateway, f"n{options.certificates - 1}.test")
        start = time.monotonic() - begun
        cpu = machine.Cpu(gateway.pids()).total
        full = machine.resident_bytes(gateway.pids())
        house.stop(gateway)
        rows.append((start, cpu, full))
    rows.sort()
    start, cpu, full = rows[len(rows) // 2]
    return [
        {
            "case": "certificates",
            "peer": "ringway",
            "certificates": options.certificates,
            "start_s": round(start, 3),
            "start_cpu_s": round(cpu, 3),
            "bytes_per_certificate": round((full - empty) / options.certificates),
            "rounds": len(rows),
        }
    ]


def pair(directory, number):
    """A certificate and its key, ECDSA with P-256."""
    pem, key = (os.path.join(directory, f"many-{number}.{part}") for part in ("pem", "key"))
    command = ["openssl", "req", "-x509", "-nodes", "-days", "30", "-subj", f"/CN=many {number}", "-out", pem, "-keyout", key]
    subprocess.run([*command, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"], check=True, capture_output=True)
    with open(pem) as cert, open(key) as private:
        return {"cert": cert.read(), "key": private.read()}


def fill_ssls(gateway, count, pairs):
    """Writes the objects."""

    def write(number, connection):
        value = {**pairs[number % len(pairs)], "snis": [f"n{number}.test"]}
        gateway.put(f"ssls/{number}", value, connection)

    configuration.write_many(gateway, count, write)


def serves(gateway, name, seconds=60):
    """Waits until a handshake with `name` ends well."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with socket.create_connection(("127.0.0.1", gateway.tls_port), 5) as plain:
                with context.wrap_socket(plain, server_hostname=name):
                    return
        except OSError:  # an alert: the name is not known yet
            time.sleep(0.002)
    raise RuntimeError(f"{name} is not served after {seconds} s")
