"""One round of load, and the figures of many interleaved ones."""

import random
import re
import shutil
import statistics
import subprocess

from . import machine


class LoadFailed(RuntimeError):
    """A round whose answers were not all good: its figures would be of something else."""


def wrk(url, conns, seconds, headers=(), prefix=()):
    """Runs wrk; gives (requests, requests a second)."""
    command = [*prefix, "taskset", "-c", machine.LOAD_CORE, "wrk", "-t1", f"-c{conns}", f"-d{seconds}s", "--timeout", "10s"]
    for header in headers:
        command += ["-H", header]
    done = subprocess.run([*command, url], capture_output=True, text=True)
    out = done.stdout
    requests = re.search(r"(\d+) requests in", out)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    if done.returncode != 0 or not requests or int(requests.group(1)) == 0:
        raise LoadFailed(f"{url}: {out[-300:]}{done.stderr[-300:]}")
    if "Non-2xx" in out:
        raise LoadFailed(f"{url}: {re.search(r'Non-2xx.*', out).group(0)}")
    return int(requests.group(1)), float(rate.group(1)), done.stderr


def h2load(url, conns, seconds, headers=(), prefix=(), more=()):
    """Runs h2load with 100 streams a connection; gives what `wrk` gives."""
    command = [*prefix, "taskset", "-c", machine.LOAD_CORE, "h2load", "-t1", f"-c{conns}", "-m100", f"-D{seconds}", *more]
    for header in headers:
        command += ["-H", header]
    done = subprocess.run([*command, url], capture_output=True, text=True)
    rate = re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s", done.stdout)
    good = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout)
    if done.returncode != 0 or not rate or not good or int(good.group(1)) == 0:
        raise LoadFailed(f"{url}: {done.stdout[-500:]}{done.stderr[-300:]}")
    if any(int(good.group(n)) for n in (2, 3, 4)):
        raise LoadFailed(f"{url}: {good.group(0)}")
    return int(good.group(1)), float(rate.group(1)), done.stderr


def one_round(target, conns, seconds, headers, load):
    """Load on `target` ((peer, path)); gives rps and CPU-µs a request: all, user, system."""
    peer, path = target
    pids = peer.pids()
    before = machine.Cpu(pids)
    requests, rate, _ = load(peer.url(path), conns, seconds, headers)
    total, user, system = machine.Cpu(pids).since(before)
    return [rate, *(seconds_spent * 1e6 / requests for seconds_spent in (total, user, system))]


def syscalls(target, conns, headers, load):
    """Syscalls a request in a run of their own, counted by the kernel's tracepoint; None where perf cannot."""
    if not shutil.which("perf"):
        return None
    peer, path = target
    pids = ",".join(str(pid) for pid in peer.pids())
    prefix = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", pids, "--"]
    try:
        requests, _, report = load(peer.url(path), conns, 1, headers, prefix)
    except LoadFailed:
        return None
    count = re.search(r"^(\d+),", report, re.MULTILINE)
    return int(count.group(1)) / requests if count else None


def interleave(case, targets, conns, body, options, headers=None, base=None, load=wrk):
    """Rounds over `targets` (name → (peer, path)) in random order; gives one row for each.

    `headers` is a list for all or a map from name to list. Ratios are medians of the ratios within each round, so
    that what slows the machine for a while slows both sides of a pair. `base` names one more target to compare with, or
    several; `load` is what sends the requests.
    """
    wanted = lambda name: (headers or {}).get(name, ()) if isinstance(headers, dict) else headers or ()
    samples = {name: [] for name in targets}
    for name, target in targets.items():
        load(target[0].url(target[1]), conns, 1, wanted(name))
    for number in range(options.rounds):
        machine.say(f"  {case} {conns} connections, round {number + 1} of {options.rounds}")
        for name in random.sample(list(targets), len(targets)):
            samples[name].append(one_round(targets[name], conns, options.seconds, wanted(name), load))
    return [
        row(case, name, conns, body, samples, syscalls(target, conns, wanted(name), load), base)
        for name, target in targets.items()
    ]


def row(case, name, conns, body, samples, calls, base):
    own = samples[name]
    rps, cpu, user, system = (statistics.median(column) for column in zip(*own))
    costs = [sample[1] for sample in own]

    def ratio(other):
        if other not in samples:
            return None
        return statistics.median(mine[1] / its[1] for mine, its in zip(own, samples[other]))

    found = {
        "case": case,
        "peer": name,
        "conns": conns,
        "body_bytes": body,
        "rps": round(rps, 1),
        "cpu_us": round(cpu, 3),
        "user_us": round(user, 3),
        "sys_us": round(system, 3),
        "syscalls": None if calls is None else round(calls, 3),
        "ratio_nginx": rounded(ratio("nginx")),
        "ratio_floor": rounded(ratio("floor")),
        "rounds": len(own),
        "spread": round((max(costs) - min(costs)) / cpu, 3),
    }
    for other in [base] if isinstance(base, str) else base or ():
        found[f"ratio_{other}"] = rounded(ratio(other))
    return found


def rounded(value):
    return None if value is None else round(value, 3)
