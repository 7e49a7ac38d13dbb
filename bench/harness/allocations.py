"""Heap allocations of a proxied request: each call of the allocator by the core's thread, counted by the kernel.

The gateway runs as it ships, on the driver that it chose. Probes on the entry points of its allocator and of libc's
(uprobes) are there only while a fixed number of requests passes on a connection that is already warm.
"""

import collections
import contextlib
import os
import re
import subprocess

from . import fixed, instructions, machine, stacks

WARM_UP = 300
REQUESTS = 200
MORE_HEADERS = 20
TRIES = 5
# Where allocations enter, and the register that holds the bytes asked for: Rust's by way of mimalloc, C code's by way
# of libc (of calloc, the size of one element). None of these calls another one of the list.
RUST = {"mi_malloc_aligned": "di", "mi_zalloc_aligned": "di", "mi_realloc_aligned": "si"}
LIBC = {"__libc_malloc": "di", "__libc_calloc": "si", "__libc_realloc": "si", "posix_memalign": "dx"}
SITE_FRAMES = 3


@contextlib.contextmanager
def probes(gateway):
    """Puts the probes on the gateway's program and gives perf's arguments that record them with their stacks."""
    pid = gateway.process.pid
    group = f"ringway_bench_{pid}"
    places = [(os.path.realpath(f"/proc/{pid}/exe"), name, register) for name, register in RUST.items()]
    places += [(libc(pid), name, register) for name, register in LIBC.items()]
    try:
        for program, name, register in places:
            # perf wants each name once among all groups, also beside another run
            probe = f"{group}:{name}_{pid}={name} bytes=%{register}:u64"
            command = ["perf", "probe", "-q", "--no-inlines", "-x", program, "--add", probe]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"no probe on {name} (root, and a kernel with uprobes?): {done.stderr}")
        yield ["-e", f"{group}:*"]
    finally:
        subprocess.run(["perf", "probe", "-q", "--del", f"{group}:*"], capture_output=True)


def libc(pid):
    with open(f"/proc/{pid}/maps") as maps:
        return re.search(r"\S*/libc\.so\.6$", maps.read(), re.MULTILINE)[0]


def core_thread(gateway):
    """The thread that serves; what the control thread allocates is no cost of a request."""
    tasks = f"/proc/{gateway.process.pid}/task"
    for thread in os.listdir(tasks):
        with open(f"{tasks}/{thread}/comm") as name:
            if name.read().startswith("core-"):
                return thread
    raise RuntimeError("no thread of the gateway is called core-N")


def record(house, gateway, events, path, headers):
    """The allocations of REQUESTS requests as (bytes, stack); again where perf could not keep up."""
    for attempt in range(TRIES):
        try:
            return recorded(house, gateway, events, path, headers)
        except stacks.EventsLost:
            if attempt == TRIES - 1:
                raise


def recorded(house, gateway, events, path, headers):
    file = os.path.join(house.directory, "allocations.data")
    graph = ["--call-graph", f"dwarf,{stacks.STACK_BYTES}"]
    client = fixed.Client(gateway, path, headers)
    client.send(WARM_UP)
    with stacks.recording(file, ["-t", core_thread(gateway)], [*events, *graph]) as recording:
        recording.begin()
        client.send(REQUESTS)
        recording.end()
    client.close()
    return [(int(arguments.rsplit("bytes=", 1)[1].split()[0]), stack) for _, arguments, stack in stacks.samples(file)]


def site(symbols, stack):
    """The innermost functions of ours that led to an allocation, with their lines; others' where none is ours."""
    frames = [frame for frame in symbols.named(stack) if "__rust_" not in frame[0]]
    own = [frame for frame in frames if frame[1].startswith("src/")]
    return " < ".join(f"{line} {name}" for name, line in (own or frames)[:SITE_FRAMES])


def show_sites(gateway, kind, found):
    """Prints who allocates, the most frequent first."""
    symbols = stacks.Symbols(f"/proc/{gateway.process.pid}/exe")
    symbols.load([stack for _, stack in found])
    sites = collections.defaultdict(list)
    for size, stack in found:
        sites[site(symbols, stack)].append(size)
    print(f"\n{kind}: who allocates (times a request, bytes each)")
    for name, sizes in sorted(sites.items(), key=lambda one: -len(one[1])):
        print(f"  {len(sizes) / REQUESTS:8.3f}  {sum(sizes) / len(sizes):8.0f}  {name}")


def requests():
    """What is sent: (name, path, headers)."""
    more = [f"X-Bench-{number}: value-of-header-{number}" for number in range(MORE_HEADERS)]
    return [
        ("plain", "/", []),
        (f"plain, {MORE_HEADERS} headers more", "/", more),
        ("plugins", "/guarded", ["apikey: bench-consumer"]),
        ("newconn", "/", ["Connection: close"]),
    ]


def prepared(house, gateway):
    house.route(gateway)
    gateway.wait_answers("/")
    house.guard(gateway)
    return gateway


def allocations(house, options):
    """Allocations, their bytes and the instructions of each kind of request; who allocates is printed."""
    machine.need(["perf", "addr2line"])
    gateway, rows = prepared(house, house.ringway()), []
    with probes(gateway) as events:
        for kind, path, headers in requests():
            found = record(house, gateway, events, path, headers)
            show_sites(gateway, kind, found)
            each = {"allocations": len(found) / REQUESTS, "bytes": sum(size for size, _ in found) / REQUESTS}
            rows.append({"case": "allocations", "peer": gateway.name, "request": kind, "requests": REQUESTS, **each})
    house.stop(gateway)
    slow = prepared(house, instructions.started(house))
    for row, (_, path, headers) in zip(rows, requests()):
        row["instructions"] = round(instructions.each_request(slow, path, headers))
    house.stop(slow)
    return rows
