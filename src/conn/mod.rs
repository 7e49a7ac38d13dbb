//! Where wire meets sockets: accept, HTTP/1.1 server and client, tunnels.
