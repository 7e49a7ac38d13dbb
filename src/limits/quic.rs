//! Of HTTP/3 and QUIC.

use super::{H2_CONNECTION_WINDOW, H2_STREAM_WINDOW};

/// Requests that a client may have open on one HTTP/3 connection: what RFC 9114 (section 6.1) asks for at least.
/// Reached by: tests/http3.rs a_client_has_what_the_handshake_gives_it_and_no_more.
pub const H3_STREAMS: u32 = 100;

/// How many of them it may have until half of these are open: QUIC has a place for each in two tables from the start,
/// 3 KB of each connection for those that most never use. The others are allowed within a round trip.
/// Reached by: tests/http3.rs a_client_has_what_the_handshake_gives_it_and_no_more.
pub const H3_STREAMS_AT_FIRST: u32 = 40;

/// Unidirectional streams of a client at one time: control, two of QPACK, and some that greasing clients open.
/// Reached by: tests/http3.rs a_client_has_what_the_handshake_gives_it_and_no_more.
pub const H3_UNI_STREAMS: u32 = 8;

/// Bytes of one request that may be under way to us, and so wait here; see [`H2_STREAM_WINDOW`].
/// Reached by: tests/http3.rs a_client_has_what_the_handshake_gives_it_and_no_more.
pub const H3_STREAM_WINDOW: u32 = H2_STREAM_WINDOW;

/// The same of one connection.
/// Reached by: tests/http3.rs a_client_has_what_the_handshake_gives_it_and_no_more.
pub const H3_CONNECTION_WINDOW: u32 = H2_CONNECTION_WINDOW;

/// Bytes of answers that one connection holds until they are acknowledged: 80 Mbit/s at 100 ms.
/// Reached by: tests/http3.rs what_is_not_acknowledged_has_a_bound.
pub const H3_SEND_WINDOW: u64 = 1 << 20;

/// The largest piece that is read from a stream at once, bytes.
/// Not reached by a test: a piece to read; more is read with the next one.
pub const H3_READ: usize = 16 << 10;

/// A frame of a client's control stream, bytes: its settings have at most a few dozen.
/// Reached by: tests/http3.rs a_client_has_what_the_handshake_gives_it_and_no_more.
pub const H3_CONTROL_FRAME: usize = 1 << 10;

/// Bytes of a TLS ClientHello over QUIC: post-quantum keys and a dozen extensions make 2 KiB.
/// Reached by: src/wire/client_hello.rs what_is_no_client_hello, with fewer bytes.
pub const QUIC_CLIENT_HELLO: usize = 16 << 10;

/// Bytes of a handshake that may come out of order: a client's certificates with their authorities.
/// Reached by: tests/http3.rs a_client_has_what_the_handshake_gives_it_and_no_more.
pub const QUIC_CRYPTO_BUFFER: usize = 32 << 10;

/// Clients of one core that have begun to shake hands and not proved their address: beyond it, they must prove it first
/// (Retry). Each costs about 20 KB and a signature.
/// Reached by: tests/http3.rs in_a_crowd_clients_prove_their_address_first.
pub const QUIC_UNPROVEN: usize = 256;

/// How long a handshake may take, ms, if `client_header_timeout` is not shorter: some round trips and losses.
/// Reached by: tests/http3.rs a_handshake_that_does_not_go_on_is_given_up.
pub const QUIC_HANDSHAKE_MS: u32 = 15_000;

/// The shortest time after which a silent connection is given up, ms, whatever `keepalive_timeout` says: answers take time.
/// Reached by: tests/http3.rs a_client_has_what_the_handshake_gives_it_and_no_more.
pub const QUIC_IDLE_MS: u32 = 10_000;
