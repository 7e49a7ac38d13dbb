//! Of layer 4, xRPC and its protocols.

/// How long a client of layer 4 that no upstream takes may still be about to speak, ms: a round trip of most of them.
/// Reached by: tests/stream.rs a_session_without_an_upstream_is_reset.
pub const TURNED_AWAY_MS: u64 = 100;

/// The longest CONNECT packet of MQTT, bytes: ids, a will and credentials take some hundred; a will may carry a message.
/// Reached by: tests/bounds.rs a_first_packet_of_mqtt_has_a_longest_length.
pub const MQTT_CONNECT: usize = 64 << 10;

/// Bytes that an xRPC protocol may ask to see at once, before it says what becomes of them: a head.
/// Not reached by a test: no protocol that is served wants to see as much.
pub const RPC_HEAD: usize = 64 << 10;

/// Calls of one session under way, each about 100 bytes and what is logged of it: a client that sends more waits for
/// answers first. redis-benchmark's longest pipelines have some thousand.
/// Reached by: src/stream/protocols/redis/tests.rs a_client_may_have_so_many_commands_under_way.
pub const RPC_CALLS: usize = 16 << 10;

/// Connections that the sessions of a core share towards one node: one suffices for a server with one thread, the second
/// serves while a slow client holds up the first.
/// Reached by: tests/multiplex.rs many_clients_share_few_connections.
pub const LANES: usize = 2;

/// The same while all of them are held up.
/// Not reached by a test: which connection carries a command shows in nothing but speed.
pub const LANES_HELD_UP: usize = 8;

/// Bytes that wait on a shared connection for an upstream to take them; clients that have more wait.
/// Not reached by a test: how far a client runs ahead of its upstream shows in nothing but memory.
pub const LANE_QUEUE_BYTES: usize = 256 << 10;

/// Answers of a shared connection that wait for one client, bytes: about what a piece in flight takes. When a client has
/// more to come, its connection waits, and others on it.
/// Reached by: tests/multiplex.rs big_values_pass_and_slow_clients_are_cut_off.
pub const LANE_INBOX_BYTES: usize = 64 << 10;

/// A client that takes nothing for so long while others on its connection wait is cut off, ms.
/// Reached by: tests/multiplex.rs big_values_pass_and_slow_clients_are_cut_off.
pub const LANE_HELD_UP_MS: u64 = 1_000;

/// A shared connection that no session uses is closed after this time, ms.
/// Not reached by a test: it takes a minute.
pub const LANE_IDLE_MS: u64 = 60_000;

/// A line of a Redis client: an inline command, or a count. As in redis-server (PROTO_INLINE_MAX_SIZE).
/// Reached by: src/stream/protocols/redis/command.rs what_is_no_command_says_why.
pub const REDIS_LINE: usize = 64 << 10;

/// Arguments of a Redis command, as in redis-server before 7. They are counted, not held.
/// Reached by: src/stream/protocols/redis/command.rs what_is_no_command_says_why.
pub const REDIS_ARGUMENTS: i64 = 1 << 20;

/// Bytes of an argument or a value of Redis, as `proto-max-bulk-len` of redis-server. They stream.
/// Reached by: src/stream/protocols/redis/command.rs what_is_no_command_says_why.
pub const REDIS_BULK: i64 = 512 << 20;

/// Bytes that are kept of a Redis command's name: none is half as long.
/// Reached by: src/stream/protocols/redis/command.rs of_a_long_name_the_beginning_is_kept.
pub const REDIS_NAME: usize = 32;

/// Bytes of one value in `$redis_cmd_line`, as in APISIX.
/// Reached by: src/stream/protocols/redis/tests.rs long_values_are_cut_in_the_log.
pub const REDIS_LOGGED_VALUE: usize = 128;

/// Bytes of `$redis_cmd_line` in all: a command may have a million values.
/// Reached by: src/stream/protocols/redis/tests.rs a_line_of_very_many_values_ends_somewhere.
pub const REDIS_LOGGED_LINE: usize = 4 << 10;

/// A command that has not come whole in so many bytes does not share a connection: others would wait for its end.
/// Reached by: src/stream/protocols/redis/tests.rs what_is_half_read_waits_or_goes_alone.
pub const REDIS_SHARED_BYTES: usize = 16 << 10;

/// How deep a reply of Redis may nest: COMMAND DOCS, the deepest, has under 10 levels.
/// Reached by: src/stream/protocols/redis/reply.rs what_is_no_reply_says_why.
pub const REDIS_DEPTH: usize = 64;

/// UDP sessions of one core and address, each a socket, a task and about 4 KiB: a flood of forged clients takes 16 MiB
/// and no more, and clients that are known are served on.
/// Reached by: tests/bounds.rs datagrams_of_so_many_clients_have_a_session.
pub const UDP_SESSIONS: usize = 4096;

/// A session of layer 4 tells metrics of the bytes that have moved at most so often, ms.
/// Not reached by a test: an interval.
pub const STREAM_METER_MS: u64 = 1_000;

/// Datagrams of one client that wait until its upstream is chosen; more are lost, as datagrams may be.
/// Reached by: tests/bounds.rs datagrams_wait_for_their_upstream_but_not_many.
pub const UDP_WAITING: usize = 16;
