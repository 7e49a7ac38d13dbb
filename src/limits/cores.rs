//! Of a core: its turns, buffers, sockets, mail; how cores start and end.

/// Worker threads: above the largest machines, below what would run out of descriptors at the start.
/// Reached by: src/config/tests.rs values_that_do_not_parse_stop_the_start_with_their_line.
pub const CORES: usize = 1024;

/// A large body streams through buffers of this size. With a piece of 60 KiB leave 44 datagrams of HTTP/3, which one call takes
/// (`UDP_SEGMENTS`): with one of 64 KiB it were two calls, one of them for a remainder.
/// Reached by: src/reactor/tests.rs a_slow_reader_holds_back_a_fast_sender.
pub const BULK_BUFFER: usize = 60 << 10;

/// Large receive buffers that a core keeps for reuse: 64 × 60 KiB = 3.75 MiB.
/// Reached by: src/reactor/chunk.rs buffers_are_kept_for_reuse_up_to_a_bound.
pub const BULK_POOL: usize = 64;

/// A body of which so many bytes are still to come, and that nobody looks at, stays in the kernel: to move pages in place of
/// bytes costs some system calls, about as much as copying 8 KiB twice.
/// Not reached by a test: it chooses between two ways that carry the same bytes.
pub const PIPED_BODY: u64 = 32 << 10;

/// The most that goes through a pipe at a time, and the size that is asked for it. It has a place for each 4 KiB, and a
/// packet takes one or two.
/// Reached by: src/reactor/tests/pipes.rs bytes_pass_through_a_pipe_in_order.
pub const PIPE_BYTES: usize = 256 << 10;

/// Pipes that a core may have: one is in use for longer than a turn only while a client does not take what is in it.
/// Reached by: src/reactor/tests/pipes.rs without_a_pipe_bytes_come_as_chunks.
pub const PIPES: usize = 64;

/// What is taken at first of a message whose body will stay in the kernel: most heads, and little of the body.
/// Not reached by a test: it chooses between two ways that carry the same bytes.
pub const PIPED_HEAD: usize = 4 << 10;

/// Accepted connections that may wait in a core for its acceptor; beyond it they wait in the kernel's backlog.
/// Reached by: src/reactor/tests/full.rs connections_wait_for_a_core_that_does_not_accept.
pub const ACCEPT_QUEUE: usize = 1024;

/// Completions that one turn of a core takes before it goes on: as many as its tasks can answer in a few ms.
/// Not reached by a test: one turn never brings so many here; what is left is taken in the next one.
pub const TURN_COMPLETIONS: usize = 4096;

/// Polls of tasks in one turn; the rest wait until the kernel was asked again, so that tasks that wake each
/// other without end cannot starve the sockets.
/// Reached by: src/reactor/tests/turns.rs tasks_that_wake_each_other_without_end_do_not_starve_sockets.
pub const TURN_POLLS: usize = 4096;

/// Times in one turn that sends which were taken at once may make tasks go on before the kernel is asked what else has come:
/// a body of 64 KiB pieces between two peers that never pause takes a megabyte of each turn.
/// Reached by: src/reactor/tests/turns.rs sends_that_are_taken_at_once_do_not_starve_sockets.
pub const TURN_FLUSHES: usize = 16;

/// Runtimes (cores) alive at once in a process: during a reload there are twice as many as [`CORES`].
/// Reached by: src/reactor/task.rs where_there_are_too_many_runtimes_another_one_is_an_error, with two places.
pub const RUNTIMES: usize = 2 * CORES;

/// Chunks that may wait unread in a stream before its receive is stopped: 8 × 16 KiB.
/// Reached by: src/reactor/tests/full.rs a_stream_that_nobody_reads_keeps_only_a_bounded_queue.
pub const RECV_QUEUE: usize = 8;

/// Wake-ups from other threads that may be under way to a core; beyond it, it polls all of its tasks once.
/// Reached by: src/reactor/task.rs wakes_that_cannot_be_noted_have_everything_polled.
pub const REMOTE_WAKES: usize = 4096;

/// Send buffers begin at this size: a head and a small body.
/// Not reached by a test: a size to begin with, which grows.
pub const SEND_BUFFER: usize = 4 << 10;

/// A send buffer that grew beyond this is not kept.
/// Reached by: src/reactor/chunk.rs buffers_are_kept_for_reuse_up_to_a_bound.
pub const SEND_BUFFER_KEEP: usize = 16 << 10;

/// Pieces that one gathering send takes: 32 pipelined answers of head and body.
/// Reached by: src/reactor/out.rs more_pieces_than_one_call_takes_go_in_several.
pub const SEND_PIECES: usize = 64;

/// Send buffers that a core keeps for reuse: 256 × 16 KiB = 4 MiB at most.
/// Reached by: src/reactor/chunk.rs buffers_are_kept_for_reuse_up_to_a_bound.
pub const SEND_POOL: usize = 256;

/// Send queues that a core keeps for reuse, of about 1.5 KiB at most.
/// Reached by: src/reactor/core.rs send_queues_are_kept_for_reuse_up_to_a_bound.
pub const SEND_QUEUES: usize = 1024;

/// How often a draining core looks whether it is done, ms.
/// Not reached by a test: an interval.
pub const DRAIN_TICK_MS: u32 = 20;

/// Tries for an address that is still in use at the start, and the pause between them, ms: nginx's five, faster.
/// Reached by: src/shard/sockets.rs an_address_in_use_is_tried_for_a_moment.
pub const BIND_TRIES: u32 = 5;

/// See [`BIND_TRIES`].
/// Reached by: src/shard/sockets.rs an_address_in_use_is_tried_for_a_moment.
pub const BIND_PAUSE_MS: u64 = 100;

/// Live connections that a core may have more than the mean, beside an eighth: below it a hand-over costs
/// more than it brings.
/// Reached by: src/mail/cores.rs a_clearly_fuller_core_hands_over_to_the_emptiest.
pub const LOAD_SLACK: u32 = 8;

/// Pause after a failed accept (no descriptors left), ms: the connections wait in the backlog.
/// Reached by: tests/full.rs without_descriptors_connections_wait_in_the_backlog.
pub const ACCEPT_PAUSE_MS: u32 = 100;

/// Messages that may wait for a core.
/// Reached by: src/control/outbox.rs a_full_core_misses_nothing_and_holds_up_no_other, with a mailbox of one.
pub const CORE_MAIL: usize = 1024;

/// Messages that may wait for control.
/// Reached by: src/plugins/public_api.rs when_control_has_no_room_the_message_is_dropped_and_counted, with a queue of one.
pub const CONTROL_MAIL: usize = 4096;

/// How long `start` waits for a gateway to be up, ms: it may have to wait for its etcd.
/// Reached by: src/verbs.rs a_gateway_that_comes_late_is_waited_for_but_not_without_end, with less time.
pub const START_MS: u64 = 60_000;

/// How long TERM and INT let requests go on, ms: process managers kill after some tens of seconds.
/// Reached by: tests/signals.rs term_ends_within_ten_seconds.
pub const TERM_MS: u64 = 10_000;

/// Datagrams (or runs of datagrams that the kernel has joined) taken from a UDP socket by one system call.
/// Not reached by a test: how many come at once is up to the kernel; more come with the next call.
pub const UDP_BATCH: usize = 8;

/// Bytes of each: the largest that UDP carries.
/// Reached by: tests/bounds.rs the_largest_datagrams_pass.
pub const UDP_DATAGRAMS: usize = 64 << 10;

/// Batches taken in one turn before other tasks go on.
/// Reached by: tests/bounds.rs datagrams_wait_for_their_upstream_but_not_many.
pub const UDP_ROUNDS: usize = 8;

/// Datagrams handed to the kernel in one call: 45 of 1,452 bytes are all that 64 KiB hold, which is what it takes.
/// Not reached by a test: how many leave at once is up to the host; more leave with the next call.
pub const UDP_SEGMENTS: usize = 45;

/// Receive and send buffer of a UDP socket, bytes, where the host allows it: 20 ms at 1.6 Gbit/s.
/// Not reached by a test: the host may allow less.
pub const UDP_SOCKET_BUFFER: usize = 4 << 20;

/// So many pieces in a row change the size of receive buffers: to change costs a system call, and pieces of
/// 64 KiB in place of 16 save one each.
/// Reached by: src/transport/pieces.rs a_run_of_pieces_of_the_other_size_changes_the_buffers.
pub const BULK_CHANGE: u8 = 4;
