//! The listening sockets of the process: one an address and core, which go from one generation of cores to the next.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use super::accept::{Begins, Listening, Then};
use crate::config::{Config, StreamListen};
use crate::limits;
use crate::reactor::{self, ListenOptions};
use crate::transport::quic::id::{LONG_AT, SHORT_AT};

/// The sockets of one address, one a core.
pub(super) struct Bound {
    local: SocketAddr,
    begins: Begins,
    per_core: Vec<TcpListener>,
}

/// The same for UDP.
pub(super) struct UdpBound {
    local: SocketAddr,
    per_core: Vec<UdpSocket>,
}

impl Bound {
    /// The socket of one core.
    pub fn listening(&self, core: usize) -> io::Result<Listening> {
        let socket = self.per_core[core].try_clone()?;
        Ok(Listening { socket, local: self.local, begins: self.begins })
    }

    fn copy(&self) -> io::Result<Bound> {
        let per_core = self.per_core.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?;
        Ok(Bound { local: self.local, begins: self.begins, per_core })
    }
}

impl UdpBound {
    /// The socket of one core.
    pub fn socket(&self, core: usize) -> io::Result<UdpSocket> {
        self.per_core[core].try_clone()
    }
}

/// One socket an address and core: those that are `open` already are taken over, others are opened. An address in
/// use is named.
pub(super) fn listen_all(config: &Config, cores: usize, open: &[Bound]) -> Result<Vec<Bound>, String> {
    let listen = &config.listen;
    let mut all = Vec::new();
    for (locals, proxy_protocol, tls) in [
        (&listen.http, false, false),
        (&listen.proxy_protocol, true, false),
        (&listen.ssl, false, true),
        (&listen.proxy_protocol_ssl, true, true),
    ] {
        for local in locals {
            let begins = Begins { proxy_protocol, tls, then: Then::Http };
            all.extend(listen_on(*local, begins, cores, open)?);
        }
    }
    for stream in &config.streams.tcp {
        let StreamListen { address, tls, proxy_protocol, proxy_protocol_to_upstream } = *stream;
        let then = Then::Stream { proxy_protocol_to_upstream };
        all.extend(listen_on(address, Begins { proxy_protocol, tls, then }, cores, open)?);
    }
    Ok(all)
}

/// The sockets of one address; none where the host lacks what it needs.
fn listen_on(
    local: SocketAddr,
    begins: Begins,
    cores: usize,
    open: &[Bound],
) -> Result<Option<Bound>, String> {
    let refused = |error: io::Error| format!("bind() to {local} failed: {error}");
    if let Some(bound) = open.iter().find(|bound| bound.local == local) {
        return Ok(Some(Bound { begins, ..bound.copy().map_err(refused)? }));
    }
    match bind_alone(|| reactor::take_alone(local)) {
        Ok(()) => {}
        Err(error) if local.is_ipv6() && !has_ipv6() => {
            log::warn!("{}: this host has no IPv6", refused(error));
            return Ok(None);
        }
        Err(error) => return Err(refused(error)),
    }
    let per_core =
        (0..cores).map(|_| reactor::listen(local, ListenOptions::default())).collect::<io::Result<_>>();
    Ok(Some(Bound { local, begins, per_core: per_core.map_err(refused)? }))
}

/// One UDP socket an address and core, as [`listen_all`] does.
pub(super) fn bind_all(config: &Config, cores: usize, open: &[UdpBound]) -> Result<Vec<UdpBound>, String> {
    let mut all = Vec::new();
    for local in config.listen.http3.iter().chain(&config.streams.udp) {
        let refused = |error: io::Error| format!("bind() to {local} (UDP) failed: {error}");
        if let Some(bound) = open.iter().find(|bound| bound.local == *local) {
            let per_core = bound.per_core.iter().map(UdpSocket::try_clone).collect::<io::Result<_>>();
            all.push(UdpBound { local: *local, per_core: per_core.map_err(refused)? });
            continue;
        }
        if local.is_ipv6() && !has_ipv6() {
            continue; // which has been said of TCP sockets
        }
        bind_alone(|| reactor::bind_udp(*local, false)).map_err(refused)?;
        let per_core = (0..cores).map(|_| reactor::bind_udp(*local, true)).collect::<io::Result<Vec<_>>>();
        let per_core = per_core.map_err(refused)?;
        // QUIC's are in the order in which they were bound, which is that of the cores; sessions of layer 4 stay with the
        // core that the kernel picks by their addresses
        if let Some(first) = per_core.first().filter(|_| config.listen.http3.contains(local))
            && let Err(error) = reactor::steer(first, SHORT_AT, LONG_AT, cores)
        {
            log::info!(
                "datagrams to {local} are passed on between cores, not steered by the kernel: {error}"
            );
        }
        all.push(UdpBound { local: *local, per_core });
    }
    Ok(all)
}

/// Binds a socket without SO_REUSEPORT: another process on this address must be noticed, not joined. It tries for a moment, as
/// nginx does: the kernel takes down a killed gateway's rings, and with them its sockets, some time after the process is gone.
fn bind_alone<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<()> {
    let mut tries = limits::BIND_TRIES;
    loop {
        tries -= 1;
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {
                std::thread::sleep(std::time::Duration::from_millis(limits::BIND_PAUSE_MS));
            }
            outcome => return outcome.map(drop),
        }
    }
}

/// A host without IPv6 must not fail on the `[::]` that `enable_ipv6` adds by default.
fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_tried_for_a_moment() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let bound = || bind_alone(|| reactor::take_alone(address));
        let began = std::time::Instant::now();
        assert_eq!(bound().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let pauses = u64::from(limits::BIND_TRIES - 1);
        let took_ms = began.elapsed().as_millis() as u64;
        assert!((pauses * limits::BIND_PAUSE_MS..3_000).contains(&took_ms), "{took_ms} ms");
        drop(holder);
        assert!(bound().is_ok());
    }

    /// Or its connection would be reset when the cores open the port.
    #[test]
    fn nobody_connects_to_an_address_that_is_only_tried() {
        let tried = reactor::take_alone(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = tried.local_addr().unwrap().as_socket().unwrap();
        let refused = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
