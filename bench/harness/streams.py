"""Layer 4: bytes beside HAProxy, and Redis by its protocol beside Envoy's redis_proxy. The load is redis-benchmark, what
answers is redis-server, so that each byte is one that somebody asked for."""

import re
import subprocess
import urllib.parse

from . import machine, measure, redis

CONNECTIONS = 50
# Requests of a round for each second that was asked for: redis-benchmark counts requests, not time.
A_SECOND = {100: 20_000, 65536: 4_000}


class Door:
    """One port of a running proxy."""

    def __init__(self, peer, port):
        self.peer, self.port = peer, port

    def pids(self):
        return self.peer.pids()

    def url(self, path):
        return f"redis://127.0.0.1:{self.port}{path}"


def benchmark(url, conns, seconds, _headers=(), prefix=()):
    """Runs redis-benchmark for `/COMMAND/BYTES/PIPELINE`; gives what `measure.wrk` gives."""
    parts = urllib.parse.urlsplit(url)
    command, size, pipeline = parts.path[1:].split("/")
    requests = A_SECOND[int(size)] * seconds * (4 if int(pipeline) > 1 else 1)
    done = subprocess.run(
        [*prefix, "taskset", "-c", machine.LOAD_CORE, "redis-benchmark", "-p", str(parts.port), "-t", command]
        + ["-d", size, "-c", str(conns), "-P", pipeline, "-n", str(requests), "--csv"],
        capture_output=True,
        text=True,
    )
    rate = re.search(rf'^"{command}[^"]*","([\d.]+)"', done.stdout, re.MULTILINE | re.IGNORECASE)
    if done.returncode != 0 or not rate:
        raise measure.LoadFailed(f"{url}: {done.stdout[-300:]}{done.stderr[-300:]}")
    return requests, float(rate.group(1)), done.stderr


def started(house, names):
    """Redis and the peers in front of it, by name; ringway's listeners have a route each."""
    machine.need(["redis-server", "redis-benchmark", "haproxy"])
    house.redis_port = redis.started(house)
    upstream = {"type": "roundrobin", "nodes": {f"127.0.0.1:{house.redis_port}": 1}}
    gateway = house.start("ringway")
    gateway.put("stream_routes/1", {"server_port": gateway.tcp_port, "upstream": upstream})
    route = {"server_port": gateway.rpc_port, "upstream": upstream, "protocol": {"name": "redis"}}
    gateway.put("stream_routes/2", route)
    protocol = {"name": "redis", "conf": {"multiplex": True}}
    shared = {"server_port": gateway.shared_port, "upstream": upstream, "protocol": protocol}
    gateway.put("stream_routes/3?wait=5000", shared)
    doors = {
        "ringway-tcp": Door(gateway, gateway.tcp_port),
        "ringway-redis": Door(gateway, gateway.rpc_port),
        "ringway-multiplex": Door(gateway, gateway.shared_port),
    }
    for name in names:
        peer = house.start(name)
        doors[name] = Door(peer, peer.port)
    return doors


def tcp(house, options):
    """Values through pumps that see only bytes. Each size is set before it is got: what is not there is nothing."""
    doors = started(house, ["haproxy-tcp"])
    rows = []
    for command, size in (("SET", 65536), ("GET", 65536), ("SET", 100), ("GET", 100)):
        path = f"/{command}/{size}/1"
        targets = {name: (doors[name], path) for name in ("ringway-tcp", "haproxy-tcp")}
        found = measure.interleave(
            f"tcp-{command.lower()}", targets, CONNECTIONS, size, options, base="haproxy-tcp", load=benchmark
        )
        rows += [{**row, "cpu_s_per_gb": round(row["cpu_us"] * 1e3 / size, 3)} for row in found]
    return rows


def redis_proxy(house, options):
    """Commands one by one and in pipelines: our own pump, Envoy, and no proxy at all."""
    names = ["envoy-redis"] if machine.envoy_program() else []
    doors = started(house, names)
    server = next(peer for peer in house.running if peer.name == "redis")
    doors["direct"] = Door(server, house.redis_port)
    rows = []
    for command, pipeline in (("SET", 1), ("GET", 1), ("GET", 16)):
        targets = {name: (door, f"/{command}/100/{pipeline}") for name, door in doors.items()}
        case = f"redis-{command.lower()}-p{pipeline}"
        found = measure.interleave(case, targets, CONNECTIONS, 100, options, base="ringway-tcp", load=benchmark)
        direct = next(row["rps"] for row in found if row["peer"] == "direct")
        rows += [{**row, "of_direct": round(row["rps"] / direct, 3)} for row in found]
    return rows
