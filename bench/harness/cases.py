"""What is measured: each case starts the peers it needs, and gives rows."""

from . import (
    allocations, configuration, each_plugin, flame, http3, instructions, latency, machine, measure, memory, peers, pubsub, redis,
    streams, tls,
)

SMALL, LARGE = 100, 65536
SECURE_PEERS = ["ringway", "nginx", "haproxy", "envoy"]


def names(options, default):
    """The peers to measure; Envoy is left out of the default ones where it cannot be installed."""
    chosen = options.peers.split(",") if options.peers else list(default)
    for name in ("envoy", "envoy-http3", "envoy-redis"):
        if not options.peers and name in chosen and not machine.envoy_program():
            machine.say(f"{name} is not measured: it could not be installed")
            chosen.remove(name)
    return chosen + ["apisix"] if options.apisix and "apisix" not in chosen else chosen


def started(house, options, default=None):
    """The peers of a case, by name; gateways have one route that takes every path."""
    found = {}
    for name in names(options, default or peers.HTTP_PEERS):
        label = name.split("=")[0]
        known = [peer for peer in house.running if peer.name == label]
        found[label] = known[0] if known else house.start(name)
        if isinstance(found[label], peers.Gateway) and not known:
            house.route(found[label])
            found[label].wait_answers("/")
    return found


def plain(house, options):
    targets = {name: (peer, "/") for name, peer in started(house, options).items()}
    return [row for conns in (64, 512) for row in measure.interleave("plain", targets, conns, SMALL, options)]


def newconn(house, options):
    targets = {name: (peer, "/") for name, peer in started(house, options).items()}
    return measure.interleave("newconn", targets, 64, SMALL, options, ["Connection: close"])


def body64k(house, options):
    targets = {name: (peer, "/64k") for name, peer in started(house, options).items()}
    return measure.interleave("body64k", targets, 32, LARGE, options)


def plugins(house, options):
    """The same gateway with and without the three plugins on the route, and nginx and the floor for their ratios."""
    targets, headers = {}, {}
    for name, peer in started(house, options).items():
        if isinstance(peer, peers.Gateway):
            house.guard(peer)
            targets[f"{name}-plain"] = (peer, "/")
            targets[name] = (peer, "/guarded")
            headers[name] = ["apikey: bench-consumer"]
        elif name in ("nginx", "floor"):
            targets[name] = (peer, "/")
    if not headers:
        return []
    rows = measure.interleave("plugins", targets, 64, SMALL, options, headers)
    costs = {row["peer"]: row["cpu_us"] for row in rows}
    for row in rows:
        own = costs.get(f"{row['peer']}-plain")
        row["ratio_own_plain"] = round(row["cpu_us"] / own, 3) if own else None
    return rows


def reactor(house, options):
    """perf/0001-reactor.md: the same minimal proxy on each candidate, the floor beside it."""
    found = started(house, options, ["floor", "hand", "monoio", "monoio-flags", "nginx"])
    small = {name: (peer, "/") for name, peer in found.items()}
    rows = [row for conns in (64, 512) for row in measure.interleave("plain", small, conns, SMALL, options)]
    large = {name: (peer, "/64k") for name, peer in found.items()}
    return rows + measure.interleave("body64k", large, 32, LARGE, options)


def cores(house, options):
    """CPU a request with two workers on two cores against one on one. The load shares the second core: a third row is one
    worker there, which has to wait for it and so finds more to do at a time. In the fourth two workers have as many
    connections each as the one has."""
    targets, wide = {}, set()
    for label, workers, pinned in (
        ("ringway-1", 1, "0"),
        ("ringway-1-beside-load", 1, "1"),
        ("ringway-2", 2, "0,1"),
        ("ringway-2-twice-the-load", 2, "0,1"),
    ):
        gateway = house.ringway(workers, pinned, label)
        house.route(gateway)
        gateway.wait_answers("/")
        targets[label] = (gateway, "/")
        if label.endswith("twice-the-load"):
            wide.add(gateway.url("/"))
    load = lambda url, conns, *more: measure.wrk(url, conns * 2 if url in wide else conns, *more)  # noqa: E731
    rows = measure.interleave("cores", targets, 64, SMALL, options, load=load)
    for row in rows:
        row["ratio_one_core"] = round(row["cpu_us"] / rows[0]["cpu_us"], 3)
        if row["peer"].endswith("twice-the-load"):
            row["conns"] *= 2
    return rows


def http3_beside_others(house, options):
    """HTTP/3 beside those who speak it."""
    machine.need(["caddy"])
    return http3.http3(house, options, started(house, options, ["ringway", "envoy-http3", "caddy"]))


CASES = {
    "allocations": allocations.allocations,
    "plain": plain,
    "newconn": newconn,
    "body64k": body64k,
    "plugins": plugins,
    "reactor": reactor,
    "latency": lambda house, options: latency.half_of_nginx(house, options, started(house, options)),
    "caches": instructions.caches,
    "cores": cores,
    "idle": memory.idle,
    "routes": configuration.many_routes,
    "flame": flame.flame,
    "each_plugin": each_plugin.each_plugin,
    "pubsub": pubsub.pubsub,
    "redis": redis.redis,
    "tcp": streams.tcp,
    "redis-proxy": streams.redis_proxy,
    "tls": lambda house, options: tls.tls(house, options, started(house, options, SECURE_PEERS)),
    "http2": lambda house, options: tls.http2(house, options, started(house, options, SECURE_PEERS)),
    "grpc": lambda house, options: tls.grpc(house, options, started(house, options, ["ringway", "envoy"])),  # nginx 1.22 fails some
    "idle2": tls.idle_h2,
    "certificates": tls.certificates,
    "http3": http3_beside_others,
    "idle3": http3.idle,
    "migration": http3.migration,
}
