"""TLS and HTTP/2 towards clients, beside nginx."""

import os

from . import machine, measure, peers


def secured(house, started):
    """The peers that speak TLS; gateways get the certificate that nginx has."""
    targets = {}
    for name, peer in started.items():
        if isinstance(peer, peers.Gateway) and hasattr(peer, "tls_port"):
            pem = {}
            for part, file in (("cert", "tls.pem"), ("key", "tls.key")):
                with open(os.path.join(house.directory, file)) as text:
                    pem[part] = text.read()
            peer.put("ssls/1?wait=5000", {**pem, "snis": ["bench.test"]})
        if hasattr(peer, "tls_port"):
            targets[name] = (peers.Secure(peer), "/")
    return targets


def tls(house, options, started):
    """HTTP/1.1 over TLS on connections that stay; then a handshake for each request."""
    targets = secured(house, started)
    rows = measure.interleave("tls", targets, 64, 100, options)
    return rows + measure.interleave("handshake", targets, 64, 100, options, ["Connection: close"])


def http2(house, options, started):
    """HTTP/2 over TLS to HTTP/1.1 upstream: ten connections of a hundred streams."""
    machine.need(["h2load"])
    return measure.interleave("http2", secured(house, started), 10, 100, options, load=measure.h2load)
