"""The proxies that are measured. Each is started once, listens on a free port and forwards to the backend."""

import http.client
import json
import os
import time
import urllib.parse

from . import machine

ADMIN_KEY = "bench-only-key-of-a-loopback-gateway"
# Candidates for the reactor (bench/spike), measured by `bench/run reactor`.
SPIKE = {"hand": [], "monoio": [], "monoio-flags": ["--flags"], "own": []}
HTTP_PEERS = ["ringway", "floor", "nginx", "haproxy", "envoy"]


class Peer:
    """A running proxy: where it listens and which processes are its cost."""

    def __init__(self, name, port, process):
        self.name, self.port, self.process = name, port, process
        machine.wait_listening(port, process)

    def pids(self):
        return machine.family(self.process.pid)

    def url(self, path="/"):
        return f"http://127.0.0.1:{self.port}{path}"

    def stop(self):
        machine.stop(self.process)


class Secure:
    """A running proxy where it speaks TLS."""

    def __init__(self, peer):
        self.peer = peer

    def pids(self):
        return self.peer.pids()

    def url(self, path="/"):
        return f"https://127.0.0.1:{self.peer.tls_port}{path}"


class Calls:
    """A running proxy where it takes gRPC, without TLS."""

    def __init__(self, peer):
        self.peer = peer

    def pids(self):
        return self.peer.pids()

    def url(self, path="/"):
        return f"http://127.0.0.1:{getattr(self.peer, 'calls_port', self.peer.port)}{path}"


class Gateway(Peer):
    """ringway or APISIX: a proxy with an Admin API."""

    def __init__(self, name, port, process, admin_port, key):
        super().__init__(name, port, process)
        self.admin_port, self.key = admin_port, key

    def put(self, path, value, connection=None):
        """One Admin API write; `connection` is kept alive where given."""
        own = connection or http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=120)
        own.request("PUT", f"/apisix/admin/{path}", json.dumps(value), {"X-API-KEY": self.key})
        answer = own.getresponse()
        text = answer.read()
        if answer.status not in (200, 201):
            raise RuntimeError(f"PUT {path}: {answer.status} {text[:300]}")

    def wait_answers(self, path, headers=None, status=200, seconds=10):
        """Waits until the proxy answers `path` with `status`."""
        until = time.monotonic() + seconds
        last = None
        while time.monotonic() < until:
            try:
                proxy = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                proxy.request("GET", path, headers=headers or {})
                last = proxy.getresponse().status
                proxy.close()
                if last == status:
                    return
            except OSError as error:
                last = error
            time.sleep(0.002)
        raise RuntimeError(f"{self.name} {path}: {last} in place of {status} after {seconds} s")


class Remote(Gateway):
    """APISIX where the user points at one: not started, not stopped, its processes found by the port."""

    def __init__(self, url, admin_url, key):
        self.admin_port = urllib.parse.urlsplit(admin_url).port or 9180
        self.key, self.name, self.process = key, "apisix", None
        self.port = urllib.parse.urlsplit(url).port or 9080

    def pids(self):
        return machine.listeners(self.port)

    def stop(self):
        pass


class House:
    """Everything one run of the harness has started; ends it all, in any case."""

    def __init__(self, directory, options):
        self.directory, self.options, self.running = directory, options, []
        self.backend, self.grpc = machine.free_port(), machine.free_port()
        with open(os.path.join(directory, "64k"), "wb") as body:
            body.write(b"x" * 65536)
        with open(os.path.join(directory, "call"), "wb") as message:
            message.write(b"\0\0\0\0\x64" + b"x" * 100)  # gRPC's prefix: not compressed, 100 bytes
        machine.certificate(directory)
        self.programs = {}
        config = machine.write_template("backend.conf", directory, BACKEND=self.backend, GRPC=self.grpc)
        self.start_peer("backend", self.backend, ["nginx", "-c", config], machine.LOAD_CORE)

    def log(self, name):
        return os.path.join(self.directory, f"{name}.out")

    def start_peer(self, name, port, command, cores=machine.PROXY_CORE):
        process = machine.start(command, cores, self.log(name))
        try:
            peer = Peer(name, port, process)
        except RuntimeError as error:
            machine.stop(process)
            with open(self.log(name)) as log:
                raise RuntimeError(f"{error}: {log.read()[-1000:]}") from None
        self.running.append(peer)
        return peer

    def cargo(self, folder, name, arguments=()):
        if name not in self.programs:
            self.programs[name] = machine.cargo_program(os.path.join(machine.ROOT, folder), name, arguments)
        return self.programs[name]

    def start(self, name):
        """Starts the peer called `name`."""
        port, backend = machine.free_port(), f"127.0.0.1:{self.backend}"
        listen = f"127.0.0.1:{port}"
        if name == "ringway":
            return self.ringway()
        if name == "apisix":
            return Remote(self.options.apisix, self.options.apisix_admin, self.options.apisix_key)
        if name == "floor":
            return self.start_peer(name, port, [self.cargo("bench/floor", "floor"), listen, backend])
        if name == "nginx":
            values = self.ports(port)
            config = machine.write_template("nginx.conf", self.directory, **values)
            return self.secured(values, self.start_peer(name, port, ["nginx", "-c", config]))
        if name == "haproxy":
            values = self.ports(port)
            config = machine.write_template("haproxy.cfg", self.directory, **values)
            return self.secured(values, self.start_peer(name, port, ["haproxy", "-db", "-f", config]))
        if name == "haproxy-tcp":
            config = machine.write_template("haproxy-tcp.cfg", self.directory, PORT=port, BACKEND=self.redis_port)
            return self.start_peer(name, port, ["haproxy", "-db", "-f", config])
        if name == "envoy-redis":
            values = {"PORT": port, "BACKEND": self.redis_port, "ADMIN": machine.free_port()}
            config = machine.write_template("envoy-redis.yaml", self.directory, **values)
            command = [machine.envoy_program(), "-c", config, "--concurrency", "1", "--log-level", "error"]
            return self.start_peer(name, port, command + ["--disable-hot-restart"])
        if name == "envoy":
            values = {**self.ports(port), "ADMIN": machine.free_port()}
            config = machine.write_template("envoy.yaml", self.directory, **values)
            command = [machine.envoy_program(), "-c", config, "--concurrency", "1", "--log-level", "error"]
            return self.secured(values, self.start_peer(name, port, command + ["--disable-hot-restart"]))
        if name == "envoy-http3":
            values = {"ADMIN": machine.free_port(), "TLS": machine.free_port(), "BACKEND": self.backend}
            config = machine.write_template("envoy-http3.yaml", self.directory, **values)
            command = [machine.envoy_program(), "-c", config, "--concurrency", "1", "--log-level", "error"]
            # its listener is of UDP: the admin port says that it is there
            peer = self.start_peer(name, values["ADMIN"], command + ["--disable-hot-restart"])
            peer.tls_port = values["TLS"]
            return peer
        if name == "caddy":
            values = {"PORT": port, "TLS": machine.free_port(), "BACKEND": self.backend}
            config = machine.write_template("Caddyfile", self.directory, **values)
            command = ["env", "GOMAXPROCS=1", "caddy", "run", "--config", config, "--adapter", "caddyfile"]
            peer = self.start_peer(name, port, command)
            peer.tls_port = values["TLS"]
            return peer
        if name in SPIKE:
            program = self.cargo("bench/spike", name.split("-")[0])
            return self.start_peer(name, port, [program, listen, backend, *SPIKE[name]])
        if "=" in name:
            # NAME=PROGRAM: any program that takes LISTEN UPSTREAM, such as a spike built elsewhere.
            label, program = name.split("=", 1)
            return self.start_peer(label, port, [program, listen, backend])
        raise SystemExit(f"no such peer: {name}")

    def ports(self, port):
        """Where a peer listens and what is behind it."""
        own = {key: machine.free_port() for key in ("TLS", "CALLS")}
        return {"PORT": port, "BACKEND": self.backend, "GRPC": self.grpc, **own}

    def secured(self, values, peer):
        """A peer that speaks TLS, too, and passes gRPC on (HAProxy does not)."""
        peer.tls_port, peer.calls_port = values["TLS"], values["CALLS"]
        return peer

    def ringway(self, workers=1, cores=machine.PROXY_CORE, name="ringway", data=None, under=(), environment=None):
        """A gateway of our own, with an empty embedded store unless `data` names the directory of another one;
        `under` is a command that runs it."""
        program = self.options.ringway or self.cargo(".", "ringway", ("--bin", "ringway"))
        directory = data or os.path.join(self.directory, f"{name}-{time.monotonic_ns()}")
        os.makedirs(directory, exist_ok=True)
        ports = {key: machine.free_port() for key in ("PORT", "TLS", "TCP", "RPC", "SHARED", "ADMIN", "CONTROL", "METRICS")}
        values = {"KEY": ADMIN_KEY, "WORKERS": workers, "ACCESS_LOG": "false"}
        config = machine.write_template("ringway.yaml", directory, **ports, **values)
        process = machine.start([*under, program, "run", "-c", config], cores, self.log(name), environment)
        try:
            machine.wait_listening(ports["ADMIN"], process)
            gateway = Gateway(name, ports["PORT"], process, ports["ADMIN"], ADMIN_KEY)
        except RuntimeError as error:
            machine.stop(process)
            with open(self.log(name)) as log:
                raise RuntimeError(f"{error}: {log.read()[-2000:]}") from None
        gateway.data, gateway.tls_port = directory, ports["TLS"]
        gateway.tcp_port, gateway.rpc_port, gateway.shared_port = ports["TCP"], ports["RPC"], ports["SHARED"]
        self.running.append(gateway)
        return gateway

    def route(self, gateway, identity="1", uri="/*", **more):
        """Creates a route to the backend."""
        upstream = {"type": "roundrobin", "nodes": {f"127.0.0.1:{self.backend}": 1}}
        gateway.put(f"routes/{identity}", {"uri": uri, "upstream": upstream, **more})

    def guard(self, gateway):
        """Creates the route of the case `plugins`, and the consumer that may use it."""
        gateway.put("consumers/bench", {"username": "bench", "plugins": {"key-auth": {"key": "bench-consumer"}}})
        limit = {"count": 1_000_000_000, "time_window": 3600, "rejected_code": 429, "key": "remote_addr"}
        chain = {"key-auth": {}, "limit-count": {**limit, "policy": "local"}, "prometheus": {}}
        self.route(gateway, "guarded", "/guarded", plugins=chain, priority=10)
        gateway.wait_answers("/guarded", {"apikey": "bench-consumer"})

    def stop(self, peer=None):
        for one in [peer] if peer else self.running[::-1]:
            one.stop()
            if one in self.running:
                self.running.remove(one)
