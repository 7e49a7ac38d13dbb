"""Instructions of the gateway's own code for a request, counted by valgrind (callgrind): the same in every run.

valgrind does not know io_uring, so the gateway runs on its epoll driver; the kernel's instructions are not counted.
"""

import glob
import os
import re
import subprocess
import tempfile

from . import fixed, machine, measure

WARM_UP = 200
REQUESTS = 300
# The caches of the model: 32 KiB for data, 1 MiB behind it and behind callgrind's 32 KiB for instructions.
MODEL = ["--cache-sim=yes", "--D1=32768,8,64", "--LL=1048576,16,64"]
MISSES = {"instructions": "Ir", "code_misses": "I1mr", "data_misses": "D1mr", "far_reads": "DLmr", "far_writes": "DLmw"}
WARM_UP_S, COUNTED_S = 8, 20


def started(house, more=()):
    """A gateway under callgrind, with `more` of its options, that counts nothing yet."""
    machine.need(["valgrind"])
    out = os.path.join(tempfile.mkdtemp(dir=house.directory), "callgrind.out")
    under = ["valgrind", "--tool=callgrind", "--fair-sched=try", "--instr-atstart=no", f"--callgrind-out-file={out}", *more]
    gateway = house.ringway(name="ringway-callgrind", under=under, environment={"RINGWAY_REACTOR": "epoll"})
    gateway.counts = out
    return gateway


def control(gateway, *order):
    command = ["callgrind_control", *order, str(gateway.process.pid)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 or "Error" in done.stderr + done.stdout:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")


def dumped(gateway):
    """What was counted: events and their sums."""
    before = set(glob.glob(f"{gateway.counts}.*"))
    control(gateway, "--dump")
    (file,) = set(glob.glob(f"{gateway.counts}.*")) - before
    with open(file) as dump:
        text = dump.read()
    events = re.search(r"^events: (.*)", text, re.MULTILINE)[1].split()
    sums = re.search(r"^totals: (.*)", text, re.MULTILINE)[1].split()
    return dict(zip(events, map(int, sums)))


def each_request(gateway, path, headers=()):
    """Instructions of one request on a warm connection: the lower of two counts, for timers and other threads may fall into one."""
    client = fixed.Client(gateway, path, headers)
    client.send(WARM_UP)
    counts = []
    for _ in range(2):
        control(gateway, "--instr=on")
        client.send(REQUESTS)
        control(gateway, "--instr=off")
        counts.append(dumped(gateway)["Ir"])
    client.close()
    return min(counts) / REQUESTS


def caches(house, options):
    """Misses of a plain request in callgrind's model of the caches, with few connections and with many."""
    gateway, rows = started(house, MODEL), []
    house.route(gateway)
    gateway.wait_answers("/")
    for conns in (64, 512):
        measure.wrk(gateway.url("/"), conns, WARM_UP_S)
        control(gateway, "--instr=on")
        requests = measure.wrk(gateway.url("/"), conns, COUNTED_S)[0]
        control(gateway, "--instr=off")
        found = dumped(gateway)
        control(gateway, "--zero")
        row = {"case": "caches", "peer": gateway.name, "conns": conns, "requests": requests}
        rows.append({**row, **{name: round(found[event] / requests, 1) for name, event in MISSES.items()}})
    house.stop(gateway)
    return rows
