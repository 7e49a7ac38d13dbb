//! Of HTTP/2, towards clients and upstreams.

/// The same as [`H2_LINK_SMALL_PIECES`] of a client: a window full of gRPC messages of 100 bytes, and half as much again.
/// Reached by: tests/grpc.rs small_messages_that_wait_for_a_slow_server_harm_no_other_call.
pub const H2_SMALL_PIECES: usize = 2 << 20;

/// Streams that a peer may have open on one HTTP/2 connection: nginx's `http2_max_concurrent_streams`.
/// Reached by: tests/h2.rs a_client_may_have_so_many_streams.
pub const H2_STREAMS: u32 = 128;

/// Bytes of one HTTP/2 stream that may be under way to us, and so wait here: 256 KiB give 20 Mbit/s at 100 ms.
/// Reached by: tests/h2.rs a_client_may_send_so_much_ahead.
pub const H2_STREAM_WINDOW: u32 = 256 << 10;

/// The same of one HTTP/2 connection, all streams together: what a client can make us hold of its bodies.
/// Reached by: tests/h2.rs a_client_may_send_so_much_ahead.
pub const H2_CONNECTION_WINDOW: u32 = 1 << 20;

/// The largest frame taken, bytes: the least that RFC 9113 allows, and its default.
/// Reached by: tests/h2.rs what_breaks_a_connection_ends_it_with_its_reason.
pub const H2_FRAME: u32 = 16 << 10;

/// Bytes of one HTTP/2 stream that wait for the peer's window before more of the answer is asked for.
/// Not reached by a test: a slow reader is held back without it, too (tests/h2.rs), and a larger one fails no test.
pub const H2_SEND_BUFFER: usize = 64 << 10;

/// HPACK's dynamic table of a peer, bytes: RFC 7541's default.
/// Reached by: tests/h2.rs a_table_of_fields_has_a_largest_size.
pub const H2_HEADER_TABLE: u32 = 4 << 10;

/// Streams that a client has reset before their turn came; more at one time are an attack (CVE-2023-44487).
/// Reached by: tests/h2.rs resets_that_come_with_their_requests_end_their_connection.
pub const H2_PENDING_RESETS: usize = 64;

/// Streams that we have reset for what their peer did wrong on one connection (CVE-2025-8671).
/// Reached by: tests/h2.rs a_client_that_has_its_streams_reset_again_and_again_is_left.
pub const H2_OWN_RESETS: usize = 128;

/// Streams that we have reset and whose late frames are told from wrong ones.
/// Reached by: tests/h2.rs late_frames_of_a_stream_that_was_reset_are_passed_over_for_a_while.
pub const H2_REMEMBERED_RESETS: usize = 32;

/// How long they are remembered, ms.
/// Reached by: tests/h2.rs late_frames_of_a_stream_that_was_reset_are_passed_over_for_a_while.
pub const H2_REMEMBERED_MS: u64 = 5_000;

/// Streams of one connection that their client has reset before the answer's end. Above it, and if they are more than
/// half of all, the client asks for what it does not want: the connection is closed.
/// Reached by: tests/h2.rs resets_one_after_the_other_end_their_connection.
pub const H2_CLIENT_RESETS: u32 = 200;

/// Frames that bring nothing (pings, settings, window updates, …) that a peer may send at once.
/// Reached by: src/wire/frames.rs frames_that_bring_nothing_are_counted.
pub const H2_ALLOWANCE: u32 = 1_000;

/// Frames that a peer earns by each second: five gRPC keep-alive pings and their like.
/// Reached by: src/wire/frames.rs requests_data_time_and_answers_earn.
pub const H2_FRAMES_PER_S: usize = 10;

/// Frames that a peer earns by each request: its priority, its window updates.
/// Reached by: src/wire/frames.rs requests_data_time_and_answers_earn.
pub const H2_FRAMES_PER_REQUEST: usize = 8;

/// Bytes sent to a peer that earn it a frame: a window update may follow each small piece of data.
/// Reached by: src/wire/frames.rs requests_data_time_and_answers_earn.
pub const H2_BYTES_PER_FRAME: usize = 8;

/// What the small pieces of all answers that wait on an upstream's connection may cost, as h2 reckons: each what it lacks to 256
/// bytes. A window full of the smallest gRPC messages (5 bytes) costs 52 MB, so slow clients never use it up; what comes for calls
/// that were broken off is added for ever ([`H2_LINK_BROKEN_OFF`]). Past it the connection ends, with all its calls.
/// Reached by: tests/grpc.rs clients_that_leave_harm_no_other_call.
pub const H2_LINK_SMALL_PIECES: usize = 64 << 20;

/// Calls of an upstream's connection that were broken off before their answer's end; then it gets no more. Each has spent what was
/// on its way of [`H2_LINK_SMALL_PIECES`].
/// Reached by: tests/grpc.rs clients_that_leave_harm_no_other_call.
pub const H2_LINK_BROKEN_OFF: u32 = 256;

/// Streams begun on an upstream's connection before it has said how many it takes: RFC 9113 asks for 100 at least.
/// Reached by: tests/h2.rs an_upstream_that_has_not_said_how_many_streams_it_takes_gets_100.
pub const H2_LINK_FIRST_STREAMS: usize = 100;

/// Tries that a request has beside its retries, as long as an upstream says that it has not looked at it: connections that go
/// away one after the other, not a server that refuses all.
/// Reached by: tests/grpc.rs a_server_that_refuses_all_is_given_up.
pub const UNSEEN_TRIES: u32 = 5;

/// HTTP/2 connections of one core to one upstream target; beyond it streams wait for their turn: 64 of 100 streams are
/// 6,400 requests under way.
/// Reached by: tests/h2.rs an_upstream_gets_so_many_connections.
pub const H2_LINKS: usize = 64;

/// HTTP/2 connections of one core to all targets, beyond which idle ones end: with TLS the name may be what a client wrote as
/// Host, another each time. Each costs a descriptor, TLS and some buffers, so some 100 MB at most; 1,000 upstreams with 4 nodes
/// each fit.
/// Reached by: src/conn/h2/link.rs beyond_the_bound_of_all_targets_the_connection_that_was_idle_longest_ends, with room for two.
pub const H2_IDLE_LINKS: usize = 4_000;

/// Of these, how many are looked at for each that is made: more than one, so that their number falls again after many were in
/// use at one time.
/// Reached by: src/conn/h2/link.rs connections_with_requests_under_way_stay_and_make_room_when_they_are_idle.
pub const H2_IDLE_LINKS_LOOKED_AT: usize = 8;

/// How long an HTTP/2 connection without streams waits for its peer to close it after GOAWAY, ms.
/// Reached by: tests/h2.rs a_client_that_stays_after_the_goodbye_is_left.
pub const H2_GOODBYE_MS: u64 = 1_000;

/// Streams of an upstream's connection that were reset here and whose last frames may still come: all calls of some clients
/// that leave at once.
/// Not reached by a test: more calls would have to be broken off on one connection, which gets no more after
/// [`H2_LINK_BROKEN_OFF`].
pub const H2_LINK_REMEMBERED_RESETS: usize = 1_024;
