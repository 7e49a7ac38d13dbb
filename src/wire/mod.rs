//! Codecs without sockets: HTTP/1.1 heads and bodies, URIs, the PROXY protocol.
