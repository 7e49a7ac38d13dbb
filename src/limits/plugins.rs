//! Of plugins, and of what they keep and call.

/// Buckets of a plugin's node-wide counters, eight each of 24 bytes: 131,072 live keys in 3.5 MB, from the first key on.
/// Reached by: src/plugin/counters.rs places_are_taken_and_given_back, with fewer.
pub const COUNTER_BUCKETS: usize = 16 << 10;

/// Names of `limit-count` groups whose configuration is remembered: a few hundred bytes each.
/// Reached by: src/plugins/limit_count/check.rs of_too_many_groups_the_oldest_is_forgotten.
pub const LIMIT_COUNT_GROUPS: usize = 1024;

/// Letters of an identifier that `request-id` makes (`range_id.length`): it goes into a header.
/// Reached by: tests/full.rs an_identifier_has_a_longest_length.
pub const REQUEST_ID: usize = 1024;

/// The body of an answer to a plugin's own call: what lua-resty-http would hold in memory without a bound.
/// Reached by: tests/full.rs an_endless_answer_to_a_plugin_is_an_error.
pub const CALL_ANSWER_BYTES: usize = 64 << 20;

/// The bodies of a batch's answers together, which are held until the last one has come; the one that goes beyond may be as
/// long as any answer.
/// Reached by: src/plugins/batch_requests.rs behind_so_many_bytes_of_answers_there_are_none, with nine bytes.
pub const BATCH_ANSWERS_BYTES: usize = 64 << 20;

/// How deep a `log_format` may nest (apisix/utils/log-util.lua).
/// Reached by: src/plugins/kit/log_entry.rs a_format_of_ones_own.
pub const LOG_FORMAT_DEPTH: usize = 5;

/// What a logger keeps of a body, unless its configuration says otherwise: APISIX's 512 KiB.
/// Reached by: tests/full.rs a_logged_body_has_a_bound.
pub const LOGGED_BODY_BYTES: u64 = 512 << 10;

/// Headers or arguments in an entry: what nginx's Lua gives of them (`ngx.req.get_headers`, `get_uri_args`).
/// Reached by: src/plugins/kit/log_json.rs of_very_many_arguments_the_first_are_logged.
pub const LOGGED_FIELDS: usize = 100;

/// Entries of so long are taken together from the cores, ms: far less than a batch waits (`inactive_timeout`, 1 s at
/// least), far more than between two requests under load.
/// Not reached by a test: an interval.
pub const LOG_GATHER_MS: u64 = 10;

/// The room that an entry begins with: most fit.
/// Not reached by a test: a size to begin with, which grows.
pub const LOG_ENTRY_BYTES: usize = 1024;

/// Entries that wait for delivery, all loggers of one kind together, unless their metadata says otherwise
/// (`max_pending_entries`).
/// Reached by: src/plugins/kit/batch.rs a_backlog_is_bounded_where_nobody_says_how.
pub const PENDING_LOG_ENTRIES: u64 = 8192;

/// Between two lines that tell of entries that found no room, ms: APISIX's.
/// Reached by: tests/outputs.rs entries_that_find_no_room_are_told_of_with_numbers.
pub const DISCARD_LINE_MS: u64 = 1000;

/// Pieces of lines waiting for the thread of a file of `file-logger`: one a turn of each core.
/// Reached by: src/telemetry/file.rs a_full_queue_drops_and_counts, with a queue of one.
pub const FILE_LOGGER_QUEUE: usize = 4096;

/// What a core gathers for such a file in one turn.
/// Reached by: src/telemetry/lines.rs lines_leave_when_the_buffer_is_full_or_old_or_the_core_ends, with ten bytes.
pub const FILE_LOGGER_BUFFER_BYTES: usize = 16 << 10;

/// How long the end of the gateway waits for log batches under way, ms.
/// Reached by: tests/full.rs log_batches_are_not_waited_for_without_end.
pub const LOG_BATCHES_MS: u64 = 3_000;

/// The body of a log collector's answer: it is read for an error message alone.
/// Reached by: src/plugins/http_logger.rs of_a_refusal_without_end_nothing_is_kept.
pub const COLLECTOR_ANSWER_BYTES: usize = 64 << 10;

/// Verified tokens that `jwt-auth` remembers on one core, in each of two generations. A token of 1 KB takes
/// about 4 KB with its claims read: 16 MB. A client sends the same token for minutes.
/// Reached by: src/plugins/jwt_auth/verified.rs remembers_what_is_asked_for_and_stays_bounded.
pub const JWT_CACHED: usize = 2048;

/// The longest token that is remembered, bytes: those of identity providers have 1 to 2 KB.
/// Reached by: src/plugins/jwt_auth/verified.rs remembers_what_is_asked_for_and_stays_bounded.
pub const JWT_CACHED_BYTES: usize = 4096;

/// How long api-breaker remembers failures after the last, ms: a day, far more than it ever rests.
/// Reached by: src/plugins/api_breaker.rs a_failure_of_long_ago_does_not_count.
pub const BREAKER_MEMORY_MS: u64 = 24 * 3600 * 1000;

/// Copies of requests that a core may have under way to mirrors (proxy-mirror): each may hold a body.
/// Reached by: tests/full.rs a_silent_mirror_holds_a_bounded_number_of_copies.
pub const MIRRORS: usize = 256;

/// Addresses to which a core keeps the connections of its plugins' calls: mirrors, authentication servers. A name may
/// have many, and each call goes to one of them.
/// Reached by: src/transport/pool.rs so_many_lasting_pools_are_held.
pub const LASTING_POOLS: usize = 256;

/// The longest body that is copied to a mirror, bytes: nginx would spool it to a file.
/// Reached by: tests/bounds.rs a_long_body_is_not_copied_to_a_mirror.
pub const MIRROR_BODY: usize = 1 << 20;

/// The longest reply taken from Redis, bytes: the slots of a cluster of 1,000 nodes are about 100 KB.
/// Reached by: src/wire/resp.rs a_reply_has_a_longest_length.
pub const REDIS_REPLY: usize = 1 << 20;

/// Commands that may wait for their replies on one connection to Redis: a tenth of a second of a busy server.
/// Reached by: src/client/redis/tests.rs a_server_that_never_answers_is_asked_no_more_than_so_often_at_once.
pub const REDIS_WAITING: usize = 16_384;

/// Nodes of a Redis cluster that are remembered: Redis itself is made for up to 1,000.
/// Reached by: src/client/redis/slots.rs a_server_that_always_names_others_is_not_remembered_without_end.
pub const REDIS_NODES: usize = 1_024;

/// Keys of limit-count that a core remembers to tell Redis of (`sync_interval`), as many as APISIX.
/// Reached by: src/plugins/limit_count/delayed.rs so_many_keys_wait_to_be_told_and_no_more.
pub const DELAYED_KEYS: usize = 10_000;
