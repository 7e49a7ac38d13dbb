//! The PROXY header that a load balancer puts before the first request.

use std::io;
use std::net::SocketAddr;

use crate::reactor::{Chunk, TcpStream};
use crate::wire::http::Progress;
use crate::wire::proxy_protocol::{self, ProxyHeader};

/// Reads the header until `deadline_ms`; what follows it stays in the stream. `None`: the balancer speaks for itself (LOCAL,
/// UNKNOWN).
pub async fn read(stream: &TcpStream, deadline_ms: u64) -> io::Result<Option<SocketAddr>> {
    stream.set_recv_deadline(Some(deadline_ms));
    let mut gathered = Vec::new();
    loop {
        let chunk = stream.recv().await?;
        if chunk.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        gathered.extend_from_slice(&chunk);
        let mut header = ProxyHeader::default();
        match proxy_protocol::decode(&gathered, &mut header) {
            Ok(Progress::Partial) => {}
            Ok(Progress::Done(consumed)) => {
                let rest = gathered.split_off(consumed);
                if !rest.is_empty() {
                    stream.unrecv(Chunk::from_vec(rest));
                }
                return Ok(header.addresses.map(|addresses| addresses.source));
            }
            Err(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "broken header")),
        }
    }
}
