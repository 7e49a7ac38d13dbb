"""HTTP/3 beside Envoy, Caddy and our own HTTP/2; migration and idle connections."""

import json
import os
import re
import subprocess

from . import machine, measure, peers, tls

BULK_BYTES = 16 << 20
MOVED = 1000


class Quic(peers.Secure):
    """A running proxy where it speaks HTTP/3."""

    def url(self, path="/"):
        return f"h3://127.0.0.1:{self.peer.tls_port}{path}"


class Load:
    """bench/load3 for `h3:` addresses, h2load for others; `streams` a connection."""

    def __init__(self, house, streams, body_bytes=0):
        self.program, self.streams, self.body_bytes = house.cargo("bench/load3", "load3"), streams, body_bytes

    def command(self, url, conns, *more):
        server, path = re.fullmatch(r"h3://([^/]+)(/.*)", url).groups()
        return ["taskset", "-c", machine.LOAD_CORE, self.program, server, path, "--connections", str(conns), *more]

    def __call__(self, url, conns, seconds, headers=(), prefix=()):
        if not url.startswith("h3:"):
            return measure.h2load(url, conns, seconds, headers, prefix)
        more = ["--streams", str(self.streams), "--seconds", str(seconds)]
        for header in headers:
            more += ["--header", header]
        done = subprocess.run([*prefix, *self.command(url, conns, *more)], capture_output=True, text=True)
        if done.returncode != 0:
            raise measure.LoadFailed(f"{url}: {done.stderr[-500:]}")
        said = json.loads(done.stdout)
        if said["requests"] == 0 or said["other_status"] or said["failed"] or said["lost_connections"]:
            raise measure.LoadFailed(f"{url}: {done.stdout}{done.stderr[-300:]}")
        # those that were under way when the clock began count in part
        whole = said["requests"] - conns * self.streams
        if said["body_bytes"] < whole * self.body_bytes:
            raise measure.LoadFailed(f"{url}: {done.stdout}")
        return said["requests"], said["rps"], done.stderr


def http3(house, options, started):
    """Answers of 1 KB on ten connections of a hundred streams, then of 16 MiB on four of one."""
    machine.need(["h2load"])
    for name, size in (("1k", 1024), ("16m", BULK_BYTES)):
        with open(os.path.join(house.directory, name), "wb") as body:
            body.write(b"x" * size)
    secured = {name: peer for name, (peer, _) in tls.secured(house, started).items()}
    targets = {name: (Quic(peer.peer), "/1k") for name, peer in secured.items() if name != "nginx"}
    if "ringway" in secured:
        targets["ringway-http2"] = (secured["ringway"], "/1k")
    rows = measure.interleave("http3", targets, 10, 1024, options, base="ringway-http2", load=Load(house, 100, 1024))
    bulk = {name: (target[0], "/16m") for name, target in targets.items() if name != "ringway-http2"}
    rows += [per_cpu(row) for row in measure.interleave("bulk3", bulk, 4, BULK_BYTES, options, load=Load(house, 1, BULK_BYTES))]
    for row in rows:
        against(rows, row)
    return rows


def per_cpu(row):
    """How much a core moves, were it busy all the time."""
    return {**row, "gbit_per_cpu_s": round(row["body_bytes"] * 8 / row["cpu_us"] / 1000, 3)}


def against(rows, row):
    """Adds the ratios to those who speak HTTP/3 beside us."""
    for other in rows:
        if other["case"] == row["case"] and other["peer"] in ("envoy-http3", "caddy"):
            row[f"ratio_{other['peer']}"] = round(row["cpu_us"] / other["cpu_us"], 3)


def migration(house, options):
    """A thousand connections to two cores move to other ports at once: how many are still answered."""
    gateway = house.ringway(2, "0,1", "ringway-2")
    house.route(gateway)
    gateway.wait_answers("/")
    tls.secured(house, {gateway.name: gateway})
    command = Load(house, 1).command(Quic(gateway).url("/"), MOVED, "--rebind")
    rows = []
    for number in range(max(options.rounds, 1)):
        machine.say(f"  migration, round {number + 1} of {options.rounds}")
        said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        rows.append({"case": "migration", "peer": "ringway", "conns": said["connections"], "survived": said["survived"]})
    return rows


def idle(house, options):
    """User memory of HTTP/3 connections that each made one request and then stay."""
    gateway = house.ringway()
    house.route(gateway)
    gateway.wait_answers("/")
    tls.secured(house, {gateway.name: gateway})
    load = Load(house, 1)
    held(load, gateway, 64)
    before = machine.resident_bytes(gateway.pids())
    count = min(options.connections, 4000)  # a socket and its buffers each in the load generator
    after = held(load, gateway, count)
    each = round((after - before) / count)
    return [{"case": "idle3", "peer": gateway.name, "conns": count, "rss_before": before, "rss_after": after, "bytes_per_conn": each}]


def held(load, gateway, count):
    """Opens `count` connections; gives the gateway's resident bytes while they stay."""
    command = load.command(Quic(gateway).url("/"), count, "--hold")
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if holder.stdout.readline() != "held\n":
            raise measure.LoadFailed(f"{count} connections could not be held")
        return machine.resident_bytes(gateway.pids())
    finally:
        holder.stdin.close()
        holder.wait(30)
