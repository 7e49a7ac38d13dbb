"""A producer by librdkafka: kafka.py BROKER create TOPIC PARTITIONS [NODE...]
                           kafka.py BROKER produce TOPIC PARTITION PREFIX COUNT
                           kafka.py BROKER transact TOPIC PARTITION PREFIX COUNT, all of them in one transaction"""

import sys

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

broker, what, topic, number, *rest = sys.argv[1:]
servers = {"bootstrap.servers": broker}

if what == "create":
    admin = AdminClient(servers)
    # nodes that have each partition, the first of them leads
    nodes = {"replica_assignment": [list(map(int, rest))] * int(number)} if rest else {"replication_factor": 1}
    made = admin.create_topics([NewTopic(topic, int(number), **nodes)], operation_timeout=30)
    made[topic].result(30)
else:
    prefix, count = rest[0], int(rest[1])
    failed = []
    transacts = what == "transact"
    producer = Producer(servers | {"linger.ms": 5} | ({"transactional.id": topic} if transacts else {}))
    if transacts:
        producer.init_transactions(60)
        producer.begin_transaction()

    def delivered(error, _):
        if error:
            failed.append(error)

    for n in range(1, count + 1):
        value = f"{prefix}{n}"
        while True:
            try:
                producer.produce(topic, value, key=str(n), partition=int(number), on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(30) == 0, "not all were delivered"
    if transacts:
        producer.commit_transaction(60)
    assert not failed, failed
