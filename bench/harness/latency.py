"""Latency under an open loop: requests leave on schedule whether or not earlier ones were answered."""

import json
import random
import statistics
import subprocess

from . import machine, measure


def open_loop(house, peer, rate, seconds, conns=64, path="/", header=None):
    """One run of bench/load; gives its figures in µs."""
    program = house.cargo("bench/load", "load")
    command = ["taskset", "-c", machine.LOAD_CORE, program, f"127.0.0.1:{peer.port}", path]
    command += ["--rate", str(int(rate)), "--seconds", str(seconds), "--connections", str(conns)]
    if header:
        command += ["--header", header]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise measure.LoadFailed(f"{peer.name}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def half_of_nginx(house, options, found):
    """Every peer at half of the highest rate that nginx reaches with 64 connections."""
    if "nginx" not in found:
        raise SystemExit("latency needs nginx among its peers: its highest rate sets the load")
    rates = [measure.wrk(found["nginx"].url(), 64, options.seconds)[1] for _ in range(3)]
    rate = statistics.median(rates) / 2
    machine.say(f"  half of nginx's highest rate: {rate:.0f} requests a second")
    runs = {name: [] for name in found}
    for number in range(options.rounds):
        machine.say(f"  latency, round {number + 1} of {options.rounds}")
        for name in random.sample(list(found), len(found)):
            runs[name].append(open_loop(house, found[name], rate, options.seconds))
    return [row(name, rate, runs) for name in found]


def row(name, rate, runs):
    figure = lambda key, of=name: statistics.median(run[key] for run in runs[of])
    values = {"case": "latency", "peer": name, "conns": 64, "body_bytes": 100, "rate": round(rate)}
    for key in ("rps", "p50_us", "p99_us", "p999_us", "max_us"):
        values[key] = round(figure(key), 1)
    for key in ("p50_us", "p999_us"):
        values[f"{key}_to_nginx"] = round(figure(key) / figure(key, "nginx"), 3)
    values["rounds"] = len(runs[name])
    return values
