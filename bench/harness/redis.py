"""Limits on a real Redis: decisions for each CPU-second of the gateway, and how its commands travel."""

import re
import socket

from . import machine, measure

# Decisions for each CPU-second of the gateway, the proxied request around them included.
GOAL = 20_000
CONNECTIONS = (64, 512)
PLAIN = "/redis/plain"
FAR_AWAY = {"rejected_code": 429, "key": "remote_addr"}


def started(house):
    """Starts a Redis that keeps nothing on disk, and gives its port."""
    machine.need(["redis-server"])
    port = machine.free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    house.start_peer("redis", port, command, machine.LOAD_CORE)
    return port


def limits(port):
    """What is measured: path → plugins. No request is refused."""
    where = {**FAR_AWAY, "policy": "redis", "redis_host": "127.0.0.1", "redis_port": port}
    count = {"count": 1_000_000_000, "time_window": 3600}
    delayed = {"limit-count": {**where, **count, "sync_interval": 1}}
    return {
        "limit-count": {"limit-count": {**where, **count}},
        "limit-count-sliding": {"limit-count": {**where, **count, "window_type": "sliding"}},
        "limit-count-delayed": delayed,
        "limit-req": {"limit-req": {**where, "rate": 1_000_000_000, "burst": 1_000_000}},
        "limit-conn": {"limit-conn": {**where, "conn": 100_000, "burst": 1000, "default_conn_delay": 0.1}},
    }


def told(port):
    """What Redis has counted: (commands that clients sent, reads from their sockets, connections now)."""
    with socket.create_connection(("127.0.0.1", port), 5) as connection, connection.makefile("rwb") as stream:
        stream.write(b"INFO everything\r\n")
        stream.flush()
        text = stream.read(int(stream.readline()[1:])).decode()
    commands = re.findall(r"^cmdstat_(?:evalsha|eval|ping):calls=(\d+)", text, re.MULTILINE)
    field = lambda name: int(re.search(rf"^{name}:(\d+)", text, re.MULTILINE)[1])
    return sum(map(int, commands)), field("total_reads_processed"), field("connected_clients")


def traffic(port, gateway, path, conns):
    """(scripts, reads of Redis) for each request, and its connections, in a run of their own."""
    commands, reads, _ = told(port)
    requests, _, _ = measure.wrk(gateway.url(path), conns, 1)
    commands_after, reads_after, clients = told(port)
    return (commands_after - commands) / requests, (reads_after - reads) / requests, clients - 1


def redis(house, options):
    port = started(house)
    gateway = house.start("ringway")
    house.route(gateway, "redis-plain", PLAIN)
    paths = {"plain": PLAIN}
    for name, plugins in limits(port).items():
        paths[name] = f"/redis/{name}"
        house.route(gateway, f"redis-{name}", paths[name], plugins=plugins)
        gateway.wait_answers(paths[name])
    targets = {name: (gateway, path) for name, path in paths.items()}
    rows = []
    for conns in CONNECTIONS:
        for found in measure.interleave("redis", targets, conns, 100, options, base="plain"):
            name = found["peer"]
            if name == "plain":
                plain_us = found["cpu_us"]
                continue
            scripts, reads, clients = traffic(port, gateway, paths[name], conns)
            rows.append(
                {
                    "case": "redis",
                    "peer": gateway.name,
                    "limit": name,
                    "conns": conns,
                    "cpu_us": found["cpu_us"],
                    "added_us": round(plain_us * (found["ratio_plain"] - 1), 3),
                    "ratio_plain": found["ratio_plain"],
                    "decisions_per_cpu_s": round(1e6 / found["cpu_us"]),
                    "goal": GOAL,
                    "scripts": round(scripts, 3),
                    "redis_reads": round(reads, 3),
                    "redis_connections": clients,
                    "rounds": found["rounds"],
                    "spread": found["spread"],
                }
            )
    house.stop(gateway)
    return rows
