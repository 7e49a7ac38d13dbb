"""100,000 routes: how long a start takes, what one change costs, and what changes do to requests in flight."""

import http.client
import os
import statistics
import threading
import time

from . import latency, machine

CHANGES = 200
CHANGES_PER_SECOND = 50
# Writes that wait together are made durable together.
WRITERS = 64


def definition(house, number):
    """Route `number`: host with exact path, prefix or parameter in turn, as gateways have them."""
    host = f"h{number % 1000}.test"
    uri = (f"/r{number}/exact", f"/r{number}/*", f"/r{number}/:id/end")[number % 3]
    upstream = {"type": "roundrobin", "nodes": {f"127.0.0.1:{house.backend}": 1}}
    return {"uri": uri, "hosts": [host], "upstream": upstream}


def fill(house, gateway, count):
    """Writes the routes."""

    def write(number, connection):
        gateway.put(f"routes/{number + 10}", definition(house, number), connection)
        if number % 10_000 == 0:
            machine.say(f"  {number} routes")

    write_many(gateway, count, write)


def write_many(gateway, count, write):
    """Calls `write(number, connection)` for each number below `count`, over several kept connections."""
    failures = []

    def some(first):
        connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=60)
        try:
            for number in range(first, count, WRITERS):
                write(number, connection)
        except Exception as failure:  # reported below, in the thread that can act on it
            failures.append(failure)

    writers = [threading.Thread(target=some, args=(first,)) for first in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    if failures:
        raise failures[0]


def change(house, gateway, connection, version):
    """Changes one route and gives the seconds from the write's return until the proxy serves the change."""
    route = definition(house, 0)
    route["uri"] = f"/changed/{version}"
    gateway.put("routes/10", route, connection)
    returned = time.monotonic()
    proxy = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5)
    while True:
        proxy.request("GET", f"/changed/{version}", headers={"Host": "h0.test"})
        answer = proxy.getresponse()
        answer.read()
        if answer.status == 200:
            proxy.close()
            return time.monotonic() - returned
        if time.monotonic() - returned > 10:
            raise RuntimeError(f"change {version} is not live after 10 s: {answer.status}")


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def cost_of_change(house, gateway, connection):
    """CPU-ms of the whole process for one write and its application, with no traffic beside it."""
    before = machine.Cpu(gateway.pids())
    for version in range(CHANGES):
        route = definition(house, 1)
        route["desc"] = f"version {version}"
        gateway.put("routes/11", route, connection)
    time.sleep(0.2)
    total, _, _ = machine.Cpu(gateway.pids()).since(before)
    return total / CHANGES * 1e3


def under_changes(house, gateway, rate, seconds):
    """The open loop's figures while another thread changes routes 50 times a second."""
    done = threading.Event()

    def write():
        connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=30)
        number = 0
        while not done.wait(1 / CHANGES_PER_SECOND):
            number += 1
            route = definition(house, number % 1000)
            route["desc"] = f"change {number}"
            gateway.put(f"routes/{number % 1000 + 10}", route, connection)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        return latency.open_loop(house, gateway, rate, seconds)
    finally:
        done.set()
        writer.join()


def resident_when_empty(house, workers):
    gateway = house.ringway(workers)
    time.sleep(0.5)
    found = machine.resident_bytes(gateway.pids())
    house.stop(gateway)
    return found


def many_routes(house, options):
    empty = resident_when_empty(house, 1)
    one_core_more = resident_when_empty(house, 2) - empty
    filled = options.store and os.path.exists(os.path.join(options.store, "ringway-data"))
    gateway = house.ringway(data=options.store)
    if not filled:
        machine.say(f"  writing {options.routes} routes")
        fill(house, gateway, options.routes)
    house.route(gateway, "1", "/*", priority=-1)
    data = gateway.data
    house.stop(gateway)

    begun = time.monotonic()
    gateway = house.ringway(data=data)
    gateway.wait_answers("/", seconds=60)
    start = time.monotonic() - begun
    full = machine.resident_bytes(gateway.pids())

    admin = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=30)
    lives = [change(house, gateway, admin, version) for version in range(CHANGES)]
    cost_ms = cost_of_change(house, gateway, admin)

    rate = 2000
    quiet, changing = [], []
    for number in range(options.rounds):
        machine.say(f"  changes under load, round {number + 1} of {options.rounds}")
        quiet.append(latency.open_loop(house, gateway, rate, options.seconds)["p999_us"])
        changing.append(under_changes(house, gateway, rate, options.seconds)["p999_us"])
    house.stop(gateway)
    # Both cores on one processor, so that the same number of threads reads the store.
    gateway = house.ringway(2, data=data)
    gateway.wait_answers("/", seconds=60)
    a_core = machine.resident_bytes(gateway.pids()) - full - one_core_more
    return [
        {
            "case": "routes",
            "peer": gateway.name,
            "routes": options.routes,
            "start_s": round(start, 3),
            "bytes_per_route": round((full - empty - a_core) / options.routes),
            "bytes_per_route_core": round(a_core / options.routes),
            "live_p50_ms": round(statistics.median(lives) * 1e3, 3),
            "live_p99_ms": round(quantile(lives, 0.99) * 1e3, 3),
            "change_cpu_ms": round(cost_ms, 3),
            "p999_quiet_us": round(statistics.median(quiet), 1),
            "p999_changing_us": round(statistics.median(changing), 1),
            "ratio_changing": round(statistics.median(changing) / statistics.median(quiet), 3),
            "rounds": options.rounds,
        }
    ]
