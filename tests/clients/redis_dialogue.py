"""Redis by its Python client, through the gateway: plain commands, pipelines, transactions, blocking commands,
subscriptions, monitors and big values. Arguments: the port."""

import sys
import threading

import redis

port = int(sys.argv[1])


def client(**more):
    return redis.Redis("127.0.0.1", port, socket_timeout=10, decode_responses=True, **more)


for protocol in (2, 3):
    plain = client(protocol=protocol)
    plain.flushall()
    assert plain.hset("animals", mapping={"dog": "bark", "cat": "meow"}) == 2
    assert plain.hmget("animals", "dog", "cat", "cow") == ["bark", "meow", None]
    try:
        plain.get("animals")
        raise SystemExit("no error")
    except redis.ResponseError as error:
        assert "WRONGTYPE" in str(error), error

    with plain.pipeline(transaction=False) as pipe:
        for number in range(1000):
            pipe.set(f"key-{number}", number).get(f"key-{number}")
        assert pipe.execute()[1::2] == [str(number) for number in range(1000)]
    with plain.pipeline(transaction=True) as pipe:
        pipe.watch("counter")
        pipe.multi()
        pipe.incr("counter").incr("counter")
        assert pipe.execute() == [1, 2]

    big = "ab\r\n" * (4 << 20)
    assert plain.set("big", big) and plain.get("big") == big
    plain.delete("big")

    popped = []
    waiter = threading.Thread(target=lambda: popped.append(client(protocol=protocol).blpop("queue", 5)))
    waiter.start()
    plain.rpush("queue", "x")
    waiter.join()
    assert list(popped[0]) == ["queue", "x"], popped

    pubsub = client(protocol=protocol).pubsub()
    pubsub.subscribe("a", "b")
    pubsub.psubscribe("p*")
    for _ in range(3):
        assert pubsub.get_message(timeout=5)["type"] in ("subscribe", "psubscribe")
    for channel in ("a", "b", "pq"):
        assert plain.publish(channel, "hi") == 1
        assert pubsub.get_message(timeout=5)["data"] == "hi"
    pubsub.unsubscribe()
    assert {pubsub.get_message(timeout=5)["channel"] for _ in range(2)} == {"a", "b"}
    pubsub.close()

    with client(protocol=protocol).monitor() as monitor:
        plain.set("seen", 1)
        assert any("seen" in monitor.next_command()["command"] for _ in range(5))
