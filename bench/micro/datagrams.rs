//! What bulk over QUIC cannot exceed on one core of this host, whatever the library: packets of 1,452 bytes filled and
//! sealed as rustls and aws-lc do it, and sent over loopback, many with one call, to a socket that another core reads.
//!
//! `cargo bench --bench datagrams`. Gbit of payload for each second of CPU of the sending thread; over loopback that
//! holds most of the receiver's kernel, too, as it does in `bench/run http3`.

use std::fs;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustls::crypto::aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384};
use rustls::quic::{PacketKey, Version};
use rustls::{Side, SupportedCipherSuite};

/// An Ethernet frame's 1,500 bytes without the headers of IPv6 and UDP.
const PACKET: usize = 1452;
/// First byte, a connection ID of 12 bytes, a packet number; and the head of the stream's frame.
const HEADER: usize = 24;
const TAG: usize = 16;
const PAYLOAD: usize = PACKET - HEADER - TAG;
/// What is sent is copied from here, piece after piece: more than a core's first cache.
const SOURCE: usize = 1 << 20;
const CPU_NS: u64 = 2_000_000_000;
const BETWEEN_LOOKS: usize = 64;

fn main() -> io::Result<()> {
    let (sender, receiver) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    let to = receiver.local_addr()?;
    std::thread::spawn(move || read(&receiver));
    core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
    let sender = Sender { state: UdpSocketState::new((&sender).into())?, socket: sender, to };
    sender.socket.set_nonblocking(false)?;
    for batch in [32, 45] {
        let mut packets =
            Packets { bytes: vec![0; batch * PACKET], source: vec![7; SOURCE], at: 0, number: 0 };
        measure(batch, "sent", || sender.send(&packets.bytes))?;
        for (name, suite) in [("AES-128", TLS13_AES_128_GCM_SHA256), ("AES-256", TLS13_AES_256_GCM_SHA384)] {
            let key = packet_key(suite)?;
            measure(batch, &format!("{name}, sealed"), || packets.seal(&*key))?;
            measure(batch, &format!("{name}, sealed and sent"), || {
                packets.seal(&*key)?;
                sender.send(&packets.bytes)
            })?;
        }
    }
    Ok(())
}

/// Does it again and again, and says what a second of CPU moves.
fn measure(batch: usize, what: &str, mut work: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let (begin_ns, mut batches) = (cpu_ns()?, 0);
    let took_ns = loop {
        for _ in 0..BETWEEN_LOOKS {
            work()?;
        }
        batches += BETWEEN_LOOKS;
        let took_ns = cpu_ns()? - begin_ns;
        if took_ns > CPU_NS {
            break took_ns as f64;
        }
    };
    let packets = (batches * batch) as f64;
    let gbit = packets * PAYLOAD as f64 * 8.0 / took_ns;
    println!(
        "{batch} a call, {what:<25} {gbit:6.2} Gbit each CPU-second, {:5.0} ns a packet",
        took_ns / packets
    );
    Ok(())
}

/// CPU time of this thread, user and system.
fn cpu_ns() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
    first.ok_or_else(|| io::Error::other("this kernel counts no CPU time of threads"))
}

/// Any key is as fast as another: those of a connection's first packets need no handshake.
fn packet_key(suite: SupportedCipherSuite) -> io::Result<Box<dyn PacketKey>> {
    let suite = suite.tls13().and_then(|suite| suite.quic_suite()).ok_or(io::ErrorKind::Unsupported)?;
    Ok(suite.keys(&[1; 12], Side::Server, Version::V1).local.packet)
}

struct Packets {
    bytes: Vec<u8>,
    source: Vec<u8>,
    at: usize,
    number: u64,
}

impl Packets {
    /// Fills and seals them all.
    fn seal(&mut self, key: &dyn PacketKey) -> io::Result<()> {
        for packet in self.bytes.chunks_exact_mut(PACKET) {
            let (header, rest) = packet.split_at_mut(HEADER);
            let (payload, tag) = rest.split_at_mut(PAYLOAD);
            payload.copy_from_slice(&self.source[self.at..self.at + PAYLOAD]);
            self.at = (self.at + PAYLOAD) % (SOURCE - PAYLOAD);
            self.number += 1;
            let sealed = key.encrypt_in_place(self.number, header, payload).map_err(io::Error::other)?;
            tag.copy_from_slice(sealed.as_ref());
        }
        Ok(())
    }
}

struct Sender {
    socket: UdpSocket,
    state: UdpSocketState,
    to: SocketAddr,
}

impl Sender {
    fn send(&self, contents: &[u8]) -> io::Result<()> {
        let segment_size = Some(PACKET);
        let transmit = Transmit { destination: self.to, ecn: None, contents, segment_size, src_ip: None };
        self.state.try_send((&self.socket).into(), &transmit)
    }
}

/// Reads what comes, on another core, as fast as it can: what does not fit into the socket meanwhile is lost.
fn read(socket: &UdpSocket) -> io::Result<()> {
    core_affinity::set_for_current(core_affinity::CoreId { id: 1 });
    let state = UdpSocketState::new(socket.into())?;
    socket.set_nonblocking(false)?;
    let mut bytes = vec![0; 64 << 10];
    loop {
        state.recv(socket.into(), &mut [IoSliceMut::new(&mut bytes)], &mut [RecvMeta::default()])?;
    }
}
