"""Instructions of the gateway's own code for a request, counted by valgrind (callgrind): the same in every run.

valgrind does not know io_uring, so the gateway runs on its epoll driver; the kernel's instructions are not counted.
"""

import glob
import os
import re
import subprocess
import tempfile

from . import fixed, machine

WARM_UP = 200
REQUESTS = 500


def started(house):
    """A gateway under callgrind that counts nothing yet."""
    machine.need(["valgrind"])
    out = os.path.join(tempfile.mkdtemp(dir=house.directory), "callgrind.out")
    under = ["valgrind", "--tool=callgrind", "--fair-sched=try", "--instr-atstart=no", f"--callgrind-out-file={out}"]
    gateway = house.ringway(name="ringway-callgrind", under=under, environment={"RINGWAY_REACTOR": "epoll"})
    gateway.counts = out
    return gateway


def control(gateway, *order):
    command = ["callgrind_control", *order, str(gateway.process.pid)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 or "Error" in done.stderr + done.stdout:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")


def each_request(gateway, path, headers=()):
    """Instructions of one request on a warm connection."""
    client = fixed.Client(gateway, path, headers)
    client.send(WARM_UP)
    control(gateway, "--instr=on")
    client.send(REQUESTS)
    control(gateway, "--instr=off")
    client.close()
    before = set(glob.glob(f"{gateway.counts}.*"))
    control(gateway, "--dump")
    (file,) = set(glob.glob(f"{gateway.counts}.*")) - before
    with open(file) as dump:
        return int(re.search(r"^totals: (\d+)", dump.read(), re.MULTILINE)[1]) / REQUESTS
