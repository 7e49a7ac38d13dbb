"""Kafka over WebSocket: messages for each CPU-second, what many subscribers cost the broker, memory of idle sessions."""

import os
import re
import socket
import subprocess
import time

from . import machine, memory

# Messages of 100 bytes that one session gets, for each CPU-second of the gateway.
GOAL = 500_000
# User memory of an idle session, bytes.
GOAL_IDLE = 4096
MESSAGES = 500_000
BYTES = 100
# Messages that 10,000 subscribers get each.
SHARED = 20
TARGET = os.environ.get("CARGO_TARGET_DIR") or os.path.join(machine.ROOT, "target")
PYTHON = os.path.join(TARGET, "tmp", "python", "bin", "python")
JARS = os.path.join(TARGET, "tmp", "kafka-3.9", "lib")


def broker(house):
    """Starts Kafka on the load's core, and gives its port."""
    if not os.path.exists(PYTHON) or not os.path.isdir(JARS):
        raise SystemExit("Kafka and librdkafka are not there: `tests/run pubsub` installs them")
    port, controller = machine.free_port(), machine.free_port()
    conf = os.path.join(house.directory, "kafka.properties")
    with open(conf, "w") as file:
        file.write(
            "process.roles=broker,controller\nnode.id=1\n"
            f"controller.quorum.voters=1@127.0.0.1:{controller}\ncontroller.listener.names=CONTROLLER\n"
            f"listeners=CONTROLLER://127.0.0.1:{controller},PLAINTEXT://127.0.0.1:{port}\n"
            f"log.dirs={house.directory}/kafka\noffsets.topic.replication.factor=1\n"
        )
    java = ["java", "-Xmx512m", "-cp", os.path.join(JARS, "*")]
    format_ = [*java, "kafka.tools.StorageTool", "format", "-t", "A" * 22, "-c", conf]
    subprocess.run(format_, check=True, capture_output=True)
    house.start_peer("kafka", port, [*java, "kafka.Kafka", conf], machine.LOAD_CORE)
    return port


def kafka(port, *arguments):
    script = os.path.join(machine.ROOT, "tests", "clients", "kafka.py")
    subprocess.run([PYTHON, script, f"127.0.0.1:{port}", *map(str, arguments)], check=True)


def varint(number):
    number &= (1 << 64) - 1
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def subscribe(topic, offset, credit):
    """A CmdKafkaSubscribe of sequence 1, as a masked frame."""
    topic = topic.encode()
    wish = b"\x0a" + varint(len(topic)) + topic + b"\x18" + varint(offset) + b"\x20" + varint(credit)
    message = b"\x08\x01" + varint(1001 << 3 | 2) + varint(len(wish)) + wish
    return bytes([0x82, 0x80 | len(message)]) + bytes(4) + message


def session(gateway, number=0):
    """Opens a WebSocket."""
    source = (f"127.0.0.{2 + number % 8}", 0)
    client = socket.create_connection(("127.0.0.1", gateway.port), 10, source)
    client.sendall(
        b"GET /kafka HTTP/1.1\r\nHost: bench.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    head = memory.heard(client, b"\r\n\r\n", number)
    if not head.startswith(b"HTTP/1.1 101"):
        raise RuntimeError(f"session {number} was not opened: {head[:80]!r}")
    return client


def read_until(client, last):
    """Reads until the bytes end with `last`; gives how many they were."""
    count, tail, space = 0, b"", bytearray(1 << 20)
    while not tail.endswith(last):
        size = client.recv_into(space)
        if size == 0:
            raise RuntimeError("the session was closed")
        count += size
        tail = (tail + bytes(space[max(0, size - len(last)) : size]))[-len(last) :]
    return count


def from_broker(gateway, port):
    """Bytes that the gateway has received from the broker, and its connections there."""
    pids = "|".join(f"pid={pid}," for pid in gateway.pids())
    out = subprocess.run(["ss", "-tinpH", f"dport = :{port}"], capture_output=True, text=True, check=True).stdout
    lines = out.splitlines()
    own = [info for head, info in zip(lines[::2], lines[1::2]) if re.search(pids, head)]
    received = [int(found[1]) for info in own if (found := re.search(r"bytes_received:(\d+)", info))]
    return sum(received), len(own)


def with_kafka(house, port, name):
    gateway = house.ringway(name=name)
    upstream = {"scheme": "kafka", "type": "none", "nodes": {f"127.0.0.1:{port}": 1}}
    gateway.put("routes/kafka", {"uri": "/kafka", "upstream": upstream})
    gateway.wait_answers("/kafka", status=400)
    return gateway


def pubsub(house, options):
    port = broker(house)
    gateway = with_kafka(house, port, "ringway")
    return [*stream(gateway, port, options), shared(gateway, port, options), idle(house, port, options)]


def stream(gateway, port, options):
    """One session gets all messages of a topic, as fast as they come."""
    kafka(port, "create", "stream", 1)
    prefix = "x" * (BYTES - len(str(MESSAGES)))
    kafka(port, "produce", "stream", 0, prefix, MESSAGES)
    rows = []
    for _ in range(max(options.rounds, 1)):
        client = session(gateway)
        before, began = machine.Cpu(gateway.pids()), time.monotonic()
        client.sendall(subscribe("stream", -2, MESSAGES))
        size = read_until(client, f"{prefix}{MESSAGES}".encode())
        seconds = time.monotonic() - began
        total, user, system = machine.Cpu(gateway.pids()).since(before)
        client.close()
        rows.append((MESSAGES / total, seconds, user, system, size))
    rows.sort()
    rate, seconds, user, system, size = rows[len(rows) // 2]
    return [
        {
            "case": "pubsub",
            "peer": gateway.name,
            "what": "stream",
            "count": MESSAGES,
            "bytes": size,
            "messages_per_s": round(MESSAGES / seconds),
            "messages_per_cpu_s": round(rate),
            "user_s": round(user, 3),
            "sys_s": round(system, 3),
            "goal": GOAL,
        }
    ]


def shared(gateway, port, options):
    """Many subscribers of one partition: the broker sends each message once."""
    kafka(port, "create", "shared", 1)
    clients = []
    for number in range(options.connections):
        client = session(gateway, number)
        client.sendall(subscribe("shared", -1, 1_000_000))
        client.recv(100)
        clients.append(client)
    received, _ = from_broker(gateway, port)
    before = machine.Cpu(gateway.pids())
    kafka(port, "produce", "shared", 0, "y" * BYTES, SHARED)
    last = f"{'y' * BYTES}{SHARED}".encode()
    for client in clients:
        read_until(client, last)
    total, _, _ = machine.Cpu(gateway.pids()).since(before)
    after, connections = from_broker(gateway, port)
    for client in clients:
        client.close()
    return {
        "case": "pubsub",
        "peer": gateway.name,
        "what": "shared",
        "count": len(clients),
        "bytes": after - received,
        "broker_connections": connections,
        "messages_per_cpu_s": round(SHARED * len(clients) / total),
    }


def idle(house, port, options):
    """Memory of sessions that were opened and say nothing, on a gateway that has served nothing else."""
    gateway = with_kafka(house, port, "ringway-idle")
    before, after = memory.held(gateway, options.connections, lambda number: session(gateway, number))
    return {
        "case": "pubsub",
        "peer": gateway.name,
        "what": "idle",
        "count": options.connections,
        "bytes_per_session": round((after - before) / options.connections),
        "goal": GOAL_IDLE,
    }
