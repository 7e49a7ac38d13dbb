//! Of connections, TLS, messages and bodies, whatever the version of HTTP.

/// Extension bytes behind one chunk size. No one uses them; room for a signature, and far less than what would
/// make a byte of data cost kilobytes of framing.
/// Reached by: src/wire/http/chunked.rs refuses.
pub const CHUNK_EXTENSION: usize = 256;

/// Trailer fields of one message, bytes: one of nginx's header buffers.
/// Reached by: src/wire/http/chunked.rs refuses.
pub const TRAILERS: usize = 8 << 10;

/// A PROXY protocol header, bytes, TLVs included: what nginx takes (NGX_PROXY_PROTOCOL_MAX_HEADER).
/// Reached by: tests/bounds.rs a_proxy_header_has_a_bound.
pub const PROXY_HEADER: usize = 4096;

/// Largest head of an upstream's answer, bytes. nginx's `proxy_buffer_size` (4 or 8 KiB) is often raised
/// for large cookies, up to this.
/// Reached by: tests/bounds.rs an_upstreams_head_has_a_bound.
pub const RESPONSE_HEAD: usize = 64 << 10;

/// Interim answers (1xx) before the one that is awaited, bytes: a server that sends them without an end never answers.
/// Reached by: tests/http1.rs interim_answers_without_end_are_given_up.
pub const INTERIM_ANSWERS: usize = 64 << 10;

/// A body with more than this to come is received in large buffers, one at a time: below it, what they save is
/// less than the change of the parked receive and back.
/// Reached by: tests/http1.rs a_large_upload_streams.
pub const BULK_BODY: u64 = 256 << 10;

/// A piece of an answer's body up to this size is copied behind its head, so that one plain send carries
/// both; beyond it, gathering two pieces costs less than the copy.
/// Reached by: tests/http1.rs a_large_download_streams.
pub const COPY_BODY: usize = 2 << 10;

/// Bytes queued towards a client before more of a body is asked for, or a further (pipelined) answer is
/// written: below it, waiting for each piece to leave costs more than the memory is worth.
/// Reached by: tests/http1.rs a_slow_reader_holds_its_upstream_back.
pub const QUEUED_BYTES: usize = 64 << 10;

/// Compressed bytes that one step of a brotli decoder takes: those of one read.
/// Not reached by a test: a buffer of a decoder, which is filled again and again.
pub const DECODE_BUFFER: usize = 4 << 10;

/// Of a request's body, kept to send it again with a retry, and awaited to give it a Content-Length.
/// Reached by: tests/http1.rs a_long_chunked_request_streams.
pub const REPLAY_BODY: usize = 64 << 10;

/// The same where the operator asks for it (proxy-control): a form or a picture, not a film; once for each request.
/// Reached by: src/plugins/proxy_control.rs says_how_much_is_collected.
pub const BUFFERED_BODY: usize = 1 << 20;

/// What is read and dropped of a body that nobody wanted, to keep the connection; beyond it closing is cheaper.
/// Reached by: tests/bounds.rs a_body_that_nobody_wants_is_read_up_to_a_bound.
pub const DRAIN_BODY_BYTES: usize = 64 << 10;

/// nginx's `lingering_timeout`: how long a client that has its answer may be silent before it sends on, ms.
/// Reached by: tests/full.rs a_client_that_sends_on_behind_its_answer_is_left_once_it_is_silent.
pub const LINGER_IDLE_MS: u64 = 5_000;

/// nginx's `lingering_time`: how long it may send on in all, ms, or a byte now and then would hold a connection for ever.
/// Reached by: src/transport/linger.rs a_client_may_send_on_for_as_long_as_in_nginx.
pub const LINGER_TOTAL_MS: u64 = 30_000;

/// TLS sessions that the process keeps for resumption, of all certificates: as many as nginx in APISIX's 20 MB.
/// Reached by: src/transport/sessions.rs sessions_are_bounded.
pub const TLS_SESSIONS: usize = 80_000;

/// Parts of them, each behind a lock of its own.
/// Not reached by a test: how many locks there are shows in nothing but speed.
pub const TLS_SESSION_SHARDS: usize = 64;

/// A key for session tickets is used for half a day, and opens them for another half.
/// Reached by: src/transport/sessions.rs a_ticket_opens_for_its_policy_until_its_key_is_gone.
pub const TLS_TICKET_KEY_S: u64 = 12 * 3600;

/// Used exchanges kept for reuse by a core: as many as are answered at once between two looks at the kernel.
/// Not reached by a test: only memory for reuse; beyond it an exchange is freed.
pub const SPARE_EXCHANGES: usize = 1024;

/// Kept connections to upstreams of one core. Each costs a descriptor here and one at the upstream; nginx's
/// default of 320 an upstream times 50 upstreams.
/// Reached by: src/transport/pool.rs a_full_core_keeps_no_more_and_begins_again_when_there_is_room.
pub const IDLE_UPSTREAM_CONNECTIONS: usize = 16_000;

/// Beyond so many of [`IDLE_UPSTREAM_CONNECTIONS`] none with TLS is kept: its name may be what a client wrote as Host,
/// another each time, which would leave no room for nodes without TLS.
/// Reached by: src/transport/pool.rs names_fill_half_a_core.
pub const IDLE_UPSTREAM_CONNECTIONS_OF_NAMES: usize = IDLE_UPSTREAM_CONNECTIONS / 2;

/// A piece of a tunnel or of an xRPC session that says that more of its kind will come, bytes: half a shared receive buffer.
/// Reached by: src/transport/pieces.rs a_run_of_pieces_of_the_other_size_changes_the_buffers.
pub const BULK_PIECE: usize = 8 << 10;
