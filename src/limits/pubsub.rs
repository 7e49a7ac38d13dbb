//! Of publish and subscribe, and of Kafka behind it.

use super::SEND_PIECES;

/// The longest message of a pub/sub client, bytes, as lua-resty-websocket's default: its commands are short.
/// Reached by: tests/pubsub.rs frames_good_and_bad.
pub const PUBSUB_MESSAGE: usize = 65_535;

/// A pub/sub client that says nothing so long is sent a WebSocket ping, ms: connections that are gone are found so, and
/// middleboxes keep the others.
/// Not reached by a test: it takes a minute.
pub const PUBSUB_PING_MS: u64 = 60_000;

/// A pub/sub client that says nothing so long, no pong either, is gone, ms. APISIX waits without end.
/// Not reached by a test: it takes ten minutes.
pub const PUBSUB_SILENCE_MS: u64 = 10 * 60_000;

/// Frames that may wait for a pub/sub client which takes none: each has memory of its own beside its bytes.
/// Reached by: src/pubsub/session.rs what_waits_for_a_client_has_a_bound_in_bytes_and_one_in_frames.
pub const PUBSUB_QUEUED_FRAMES: usize = SEND_PIECES;

/// How long a goodbye of a pub/sub session may take to leave, and its client then to close, ms.
/// Reached by: tests/pubsub.rs a_client_that_stays_after_the_goodbye_is_left.
pub const PUBSUB_GOODBYE_MS: u32 = 5_000;

/// Subscriptions of one pub/sub connection. Who wants more partitions opens a second one.
/// Reached by: tests/pubsub.rs a_connection_has_so_many_subscriptions.
pub const PUBSUB_SUBSCRIPTIONS: usize = 64;

/// Messages pushed to a subscriber in one WebSocket frame, bytes, unless a single one is longer: what is queued for a
/// client at one time, and what most client libraries take.
/// Reached by: src/pubsub/subscription.rs a_push_has_a_largest_size_unless_one_message_is_larger.
pub const PUBSUB_PUSH_BYTES: usize = 64 << 10;

/// Newest messages of a partition with subscribers that a core keeps, bytes, so that a subscriber that takes them in
/// bursts needs no fetch of its own. The memory is shared by all cores.
/// Reached by: src/pubsub/feed.rs a_window_is_bounded.
pub const FEED_WINDOW_BYTES: usize = 4 << 20;

/// The same, in batches: many small ones have overhead.
/// Reached by: src/pubsub/feed.rs a_window_is_bounded.
pub const FEED_WINDOW_BATCHES: usize = 1024;

/// Batches of a partition that may wait for one core: 8 MiB at [`KAFKA_FETCH_BYTES`] each. What does not fit is a gap,
/// which subscribers fill by fetches.
/// Reached by: src/pubsub/kafka/tail.rs who_missed_the_end_of_a_burst_is_told_without_another_message.
pub const FEED_MAIL: usize = 16;

/// Messages that may wait for the Kafka thread.
/// Reached by: src/pubsub/kafka/thread.rs a_thread_that_stands_still_is_asked_no_more, with room for one.
pub const KAFKA_MAIL: usize = 4096;

/// Answers of one cluster that are awaited at one time; others wait in line. Each may bring [`KAFKA_FETCH_BYTES`].
/// Reached by: src/pubsub/kafka/cluster.rs a_call_waits_for_its_turn_but_not_without_end.
pub const KAFKA_IN_FLIGHT: usize = 128;

/// Calls of one cluster that may be under way or wait in line.
/// Reached by: src/pubsub/kafka/cluster.rs calls_under_way_have_a_bound.
pub const KAFKA_WAITING: usize = 4096;

/// What one fetch asks for, bytes. A record batch that is longer comes whole.
/// Reached by: tests/pubsub.rs a_fetch_brings_so_much_at_once.
pub const KAFKA_FETCH_BYTES: i32 = 512 << 10;

/// Offsets without a message, one behind the other, that one fetch goes past; the next goes on from there. Each costs a
/// call, and all of them must fit into [`KAFKA_CALL_MS`] where a broker is far away.
/// Reached by: src/pubsub/kafka/past.rs a_fetch_goes_past_so_many_offsets.
pub const KAFKA_PASSED_OVER: usize = 128;

/// The longest answer of a broker, bytes: Kafka's default lets no record batch pass 1 MiB, some operators raise it.
/// Not reached by a test: no broker sends as much for what is asked here; rskafka reads on and drops it.
pub const KAFKA_ANSWER_BYTES: usize = 32 << 20;

/// How long a connection to a broker may take until it can be used, ms: a handshake of TLS and the thousands of hashes of
/// a SCRAM login on a busy host.
/// Reached by: src/pubsub/kafka/cluster.rs a_silent_broker_is_given_up_and_then_left_in_peace_for_a_moment.
pub const KAFKA_CONNECT_MS: u64 = 5_000;

/// How long a call may take in all, a new leader included: elections after a broker's death take some seconds.
/// Reached by: src/pubsub/kafka/cluster.rs a_call_waits_for_its_turn_but_not_without_end.
pub const KAFKA_CALL_MS: u64 = 10_000;

/// How long the fetch of a partition with subscribers waits at its broker for a first message, ms.
/// Not reached by a test: an interval, kept by the broker.
pub const KAFKA_TAIL_WAIT_MS: i32 = 500;

/// A partition with subscribers whose brokers could not be reached for so long is given up, ms: its subscribers are told.
/// Reached by: src/pubsub/kafka/tail.rs brokers_are_waited_for_but_not_for_ever.
pub const KAFKA_GONE_MS: u64 = 10 * 60_000;

/// Pause after a failed try to go on with a partition that has subscribers, ms.
/// Not reached by a test: an interval.
pub const KAFKA_TAIL_PAUSE_MS: u64 = 500;

/// A cluster that could not be reached is not asked again for so long, ms: those who wait get the same answer.
/// Reached by: src/pubsub/kafka/cluster.rs a_silent_broker_is_given_up_and_then_left_in_peace_for_a_moment.
pub const KAFKA_REST_MS: u64 = 1_000;

/// How long the list of topics is believed where it lacks one, ms.
/// Reached by: tests/pubsub.rs a_topic_that_was_created_later_is_found.
pub const KAFKA_TOPICS_MS: u64 = 1_000;

/// Partitions of one cluster with an open connection to their leader.
/// Reached by: src/pubsub/kafka/cluster.rs of_too_many_leaders_the_one_that_was_not_used_longest_goes.
pub const KAFKA_PARTITIONS: usize = 256;

/// Clusters (one for each upstream and login) that are known at one time. Those that nothing is under way of make room;
/// if there are none, a command for another one gets an error.
/// Reached by: src/pubsub/kafka/thread.rs clusters_in_use_have_a_bound.
pub const KAFKA_CLUSTERS: usize = 1024;

/// A cluster that nobody has asked for so long is forgotten and its connections are closed, ms.
/// Reached by: src/pubsub/kafka/thread.rs a_cluster_that_nobody_asks_any_more_is_forgotten.
pub const KAFKA_IDLE_MS: u64 = 5 * 60_000;
