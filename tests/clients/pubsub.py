"""A client of publish and subscribe that knows nothing of ours but the schema: pubsub.py GATEWAY_PORT SCHEMA TOPIC

SCHEMA is a file with the compiled schema (a FileDescriptorSet). The WebSocket is the package websockets', the messages
are the package protobuf's. The topic has the messages m1 to m20."""

import sys

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from websockets.sync.client import connect

port, schema, topic = sys.argv[1:]
pool = descriptor_pool.DescriptorPool()
with open(schema, "rb") as file:
    for one in descriptor_pb2.FileDescriptorSet.FromString(file.read()).file:
        pool.Add(one)
message = lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
Request, Response = message("PubSubReq"), message("PubSubResp")


class Session:
    def __init__(self):
        self.socket = connect(f"ws://127.0.0.1:{port}/kafka", compression=None, max_size=None)
        self.sequence = 0

    def send(self, **command):
        self.sequence += 1
        self.socket.send(Request(sequence=self.sequence, **command).SerializeToString())
        return self.sequence

    def next(self, sequence):
        answer = Response.FromString(self.socket.recv(timeout=10))
        assert answer.sequence == sequence, answer
        return answer

    def ask(self, **command):
        return self.next(self.send(**command))


session = Session()
assert session.ask(cmd_ping={"state": b"test"}).pong_resp.state == b"test"
assert session.ask(cmd_empty={}).error_resp.message == "unknown command"
place = {"topic": topic, "partition": 0}
assert session.ask(cmd_kafka_list_offset={**place, "timestamp": -1}).kafka_list_offset_resp.offset == 20
assert session.ask(cmd_kafka_list_offset={**place, "timestamp": -2}).kafka_list_offset_resp.offset == 0
fetched = session.ask(cmd_kafka_fetch={**place, "offset": 15}).kafka_fetch_resp.messages
assert [(one.offset, one.key, one.value) for one in fetched] == [
    (n, b"%d" % (n + 1), b"m%d" % (n + 1)) for n in range(15, 20)
], fetched

subscription = session.send(cmd_kafka_subscribe={**place, "offset": 10, "credit": 4})
assert session.next(subscription).kafka_subscribe_resp.offset == 10
offsets = []
while len(offsets) < 4:
    offsets += [one.offset for one in session.next(subscription).kafka_fetch_resp.messages]
session.send(cmd_credit={"subscription": subscription, "messages": 6})
while len(offsets) < 10:
    offsets += [one.offset for one in session.next(subscription).kafka_fetch_resp.messages]
assert offsets == list(range(10, 20)), offsets
assert session.ask(cmd_unsubscribe={"subscription": subscription}).unsubscribe_resp.offset == 20

session.socket.ping().wait(10)
session.socket.send("text is passed over")
assert session.ask(cmd_ping={"state": b"end"}).pong_resp.state == b"end"
session.socket.close()
assert session.socket.close_code == 1000, session.socket.close_code
