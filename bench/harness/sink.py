"""A log collector that reads all and keeps nothing, over TCP and UDP."""

import socket
import threading


def started():
    """Starts it in threads that end with the harness, and gives its port."""
    stream = socket.create_server(("127.0.0.1", 0))
    port = stream.getsockname()[1]
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", port))
    threading.Thread(target=accept, args=(stream,), daemon=True).start()
    threading.Thread(target=drain, args=(datagrams,), daemon=True).start()
    return port


def accept(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=drain, args=(connection,), daemon=True).start()


def drain(connection):
    buffer = bytearray(1 << 16)
    try:
        while connection.recv_into(buffer):
            pass
    except OSError:
        pass
    connection.close()
