//! Every bound in the program, each with its reason. A bound that a user can set lives in
//! `config`; here are the others, and the defaults' ceilings.

/// Points on the hash ring of one `chash` upstream. 160 a unit of weight: weights that sum to 3,000 and
/// have no common divisor fit unchanged. 8 bytes a point, so 4 MB a core at most.
/// Reached by: src/upstream/balancer/chash.rs huge_weights_stay_within_the_bound_and_zero_weights_pick_none.
pub const CHASH_POINTS: u64 = 1 << 19;
/// Levels of JSON Schema, in the schema and in a value checked by it: APISIX's deepest schema has 9; a level
/// costs about 1 KiB of stack in each of two functions, so 128 stay far from a 2 MiB thread stack.
/// Reached by: src/model/schema/tests.rs endless_schemas_end.
pub const SCHEMA_DEPTH: usize = 128;
/// Rules that one check may look at, as many as 32 MiB of digits in an array: branches may double them at each level.
/// Reached by: src/model/schema/tests.rs branches_that_double_at_each_level_end.
pub const SCHEMA_STEPS: usize = 1 << 24;
/// Sub-schemas of one schema: a plugin's largest has under 200, users write their own in request-validation.
/// Reached by: src/model/schema/tests.rs endless_schemas_end.
pub const SCHEMA_NODES: usize = 65_536;
/// How deep a condition (`vars` and its like) may nest: JSON itself is read to 128, and no hand-written
/// condition passes a tenth of this; compiling and evaluating recurse.
/// Reached by: src/expr/condition/tests.rs error_texts.
pub const EXPR_DEPTH: usize = 64;
/// Steps a regular expression of a condition or a schema may take (PCRE's LIMIT_MATCH, whose default is 10,000,000):
/// about 10 ms of a core.
/// Reached by: src/expr/condition/tests.rs a_runaway_pattern_gives_up.
pub const REGEX_STEPS: u32 = 1_000_000;
/// How deep a proto object may nest: hand-written ones pass 5 nowhere, and their parser recurses without a bound.
/// Reached by: src/model/check/proto.rs a_proto_that_nests_without_end_is_refused_and_one_of_some_depth_is_not.
pub const PROTO_DEPTH: usize = 32;
/// How deep the brackets of a JSONPath (`post_arg.*`) may nest: a filter with a function in parentheses has 3. Its parser
/// recurses without a bound of its own, and takes twice as long for each filter inside another.
/// Reached by: src/model/check/tests.rs a_json_path_that_nests_without_end_is_refused.
pub const JSON_PATH_DEPTH: usize = 6;
/// Page cache of the embedded store, bytes. Writes are rare and reads come from the Admin API only, so the
/// inner pages of 100,000 objects (a few MB) are what is worth keeping.
/// Not reached by a test: the cache is redb's, and shows in nothing but speed.
pub const STORE_CACHE_BYTES: usize = 16 << 20;
/// Commands waiting for the embedded store's thread. A full queue makes Admin API writers wait in line,
/// which costs nobody else anything.
/// Reached by: src/control/store/tests.rs concurrent_writers_share_revisions_without_gaps, where all are served; who waits in
/// the queue and who before it, nobody can tell.
pub const STORE_QUEUE: usize = 256;
/// Leases of the embedded store that have run out are tried again this long after a write failed, ms: often enough to
/// notice that the disk has room again, too seldom to cost anything. As often its failure is logged.
/// Reached by: src/control/store/embedded.rs a_disk_that_fails_is_not_asked_without_pause, however long it is.
pub const STORE_RETRY_MS: u64 = 1_000;

/// Writes committed by one fsync of the embedded store: an fsync costs milliseconds, a write microseconds,
/// so a batch this size is already limited by the writes.
/// Reached by: src/control/store/embedded.rs a_batch_has_a_most_and_loses_nothing_of_the_next.
pub const STORE_BATCH: usize = 256;

/// Objects that one thread reads of a long list of changes before another helps: 20 µs each are worth a thread's start.
/// Reached by: src/control/feed/tests.rs a_thread_begins_where_another_has_enough.
pub const READ_BY_ONE_THREAD: usize = 1_000;

/// Changes that the control thread takes in before it looks after its other work: what waits for it, an answer of the
/// Admin API say, waits 20 ms longer while a whole load of objects is read.
/// Reached by: src/control/feed/tests.rs a_long_snapshot_leaves_the_thread_to_others_between_its_slices.
pub const FEED_SLICE: usize = 4 * READ_BY_ONE_THREAD;

/// Events waiting for the reader of a store's watch. Each is a batch already.
/// Reached by: src/control/store/tests.rs writers_wait_for_a_reader_that_stands_still.
pub const WATCH_QUEUE: usize = 256;

/// Seconds a key may be leased for (`?ttl=`): ten years. More overflows clocks and helps nobody.
/// Reached by: src/control/store/tests.rs leases_have_a_longest_time.
pub const TTL_S: i64 = 10 * 366 * 24 * 3600;

/// The largest answer taken from etcd, bytes: a full load arrives as one message (100,000 routes of 2 KB
/// are 200 MB). etcd-client's own default of 4 MB would fail with 10,000.
/// Not reached by a test: it would be a gigabyte; 6 MB come whole (tests/full.rs
/// a_large_configuration_comes_from_etcd_whole).
pub const ETCD_ANSWER_BYTES: usize = 1 << 30;

/// A snapshot of etcd that has missed a change waits this long until all is read for it, seconds: a disk that is full or
/// slow is not better at once, and etcd is not to be read again and again for it.
/// Reached by: src/control/store/snapshot.rs a_snapshot_that_missed_a_change_keeps_none_until_it_gets_all, however long it is.
pub const SNAPSHOT_RETRY_S: u64 = 30;

/// HTTP/2 pings to etcd, seconds: a peer that vanished without a word is noticed after two of them.
/// Reached by: src/control/store/tests.rs an_etcd_that_vanished_is_found_out_by_pings.
pub const ETCD_PING_S: u64 = 10;

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

/// Sockets that active health probes may have open at one time, over all upstreams: a probe that waits for
/// one is late, not lost.
/// Reached by: src/control/probe/tests.rs probes_beyond_the_bound_of_the_process_are_late_not_lost.
pub const PROBES_IN_FLIGHT: usize = 256;

/// Bytes of a probe's answer that are searched for the end of the status line.
/// Reached by: src/control/probe/tests.rs a_status_line_without_end_is_a_failure_at_once.
pub const PROBE_STATUS_LINE: usize = 4096;

/// Admin key letters, as many as APISIX makes: 52^32 is 182 bits.
/// Reached by: src/config/tests.rs an_empty_key_is_made_once_and_only_it_changes_in_the_file.
pub const ADMIN_KEY_LETTERS: usize = 32;

/// How deep YAML may nest: APISIX's own files reach 9; reading and dropping a tree recurse.
/// Reached by: src/config/yaml.rs errors_carry_their_line_and_floods_end.
pub const CONFIG_DEPTH: usize = 64;

/// Values that the aliases of one YAML file may expand to: an apisix.yaml of 100,000 routes without aliases
/// is not touched, nested aliases that grow without end are.
/// Reached by: src/config/yaml.rs errors_carry_their_line_and_floods_end.
pub const CONFIG_ALIAS_NODES: usize = 100_000;

/// Worker threads: above the largest machines, below what would run out of descriptors at the start.
/// Reached by: src/config/tests.rs values_that_do_not_parse_stop_the_start_with_their_line.
pub const CORES: usize = 1024;

/// Questions to name servers under way at one time.
/// Reached by: src/control/dns/tests.rs questions_and_names_have_bounds.
pub const DNS_IN_FLIGHT: usize = 64;

/// Names of nodes that are kept fresh. 10,000 with a TTL of 30 s are 333 questions a second already.
/// Reached by: src/control/dns/tests.rs questions_and_names_have_bounds.
pub const DNS_NAMES: usize = 10_000;

/// A large body streams through buffers of this size. With a piece of 60 KiB leave 44 datagrams of HTTP/3, which one call takes
/// (`UDP_SEGMENTS`): with one of 64 KiB it were two calls, one of them for a remainder.
/// Reached by: src/reactor/tests.rs a_slow_reader_holds_back_a_fast_sender.
pub const BULK_BUFFER: usize = 60 << 10;

/// Large receive buffers that a core keeps for reuse: 64 × 60 KiB = 3.75 MiB.
/// Reached by: src/reactor/chunk.rs buffers_are_kept_for_reuse_up_to_a_bound.
pub const BULK_POOL: usize = 64;

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
/// How long a client of layer 4 that no upstream takes may still be about to speak, ms: a round trip of most of them.
/// Reached by: tests/stream.rs a_session_without_an_upstream_is_reset.
pub const TURNED_AWAY_MS: u64 = 100;
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
/// Plans that a route keeps for different consumers; beyond it they are built anew.
/// Reached by: tests/full.rs more_consumers_than_a_route_remembers.
pub const JOINED_PLANS: usize = 1024;
/// Numbers of body-filter state below this are the route's chain's, the others the global rules'.
/// Not reached by a test: a chain has a plugin once, and there are far fewer plugins.
pub const GLOBAL_SLOTS: u16 = 256;
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
/// Buckets of a plugin's node-wide counters, eight each of 24 bytes: 131,072 live keys in 3.5 MB, from the first key on.
/// Reached by: src/plugin/counters.rs places_are_taken_and_given_back, with fewer.
pub const COUNTER_BUCKETS: usize = 16 << 10;
/// Names of `limit-count` groups whose configuration is remembered: a few hundred bytes each.
/// Reached by: src/plugins/limit_count/check.rs of_too_many_groups_the_oldest_is_forgotten.
pub const LIMIT_COUNT_GROUPS: usize = 1024;
/// The body of an Admin API call: 1.5 MiB (apisix/admin/init.lua).
/// Reached by: src/control/admin/server.rs a_body_beyond_the_limit_is_not_kept.
pub const ADMIN_BODY_BYTES: usize = 1536 << 10;
/// A whole configuration in one call, in the API-driven standalone mode: 100,000 routes of 600 bytes.
/// Reached by: src/control/admin/server.rs a_body_beyond_the_limit_is_not_kept, with the other limit.
pub const STANDALONE_BODY_BYTES: usize = 64 << 20;
/// Messages that may wait for a core.
/// Reached by: src/control/outbox.rs a_full_core_misses_nothing_and_holds_up_no_other, with a mailbox of one.
pub const CORE_MAIL: usize = 1024;
/// Messages that may wait for control.
/// Reached by: src/plugins/public_api.rs when_control_has_no_room_the_message_is_dropped_and_counted, with a queue of one.
pub const CONTROL_MAIL: usize = 4096;

/// Kept connections to upstreams of one core. Each costs a descriptor here and one at the upstream; nginx's
/// default of 320 an upstream times 50 upstreams.
/// Reached by: src/transport/pool.rs a_full_core_keeps_no_more_and_begins_again_when_there_is_room.
pub const IDLE_UPSTREAM_CONNECTIONS: usize = 16_000;

/// Beyond so many of [`IDLE_UPSTREAM_CONNECTIONS`] none with TLS is kept: its name may be what a client wrote as Host,
/// another each time, which would leave no room for nodes without TLS.
/// Reached by: src/transport/pool.rs names_fill_half_a_core.
pub const IDLE_UPSTREAM_CONNECTIONS_OF_NAMES: usize = IDLE_UPSTREAM_CONNECTIONS / 2;

/// Error lines waiting for their thread: a burst of a second at 1,000 a second and more; each is small.
/// Reached by: src/telemetry/file.rs a_full_queue_drops_and_counts, with a queue of one.
pub const ERROR_LOG_QUEUE: usize = 4096;
/// Bytes of an error line, nginx's 2048 twice: a client's whole body may be in what is wrong with it.
/// Reached by: src/telemetry/log.rs a_line_has_a_longest_length.
pub const ERROR_LOG_LINE: usize = 4096;

/// Pieces of access log waiting for their thread: 256 of 16 KiB are 4 MiB, a second of 20,000 requests/s
/// at 200 bytes a line, which a disk that stalls for a moment needs.
/// Reached by: src/telemetry/file.rs a_full_queue_drops_and_counts, with a queue of one.
pub const ACCESS_LOG_QUEUE: usize = 256;

/// Largest `access_log_buffer` a core, bytes.
/// Reached by: src/telemetry/lines.rs a_buffer_has_a_largest_size.
pub const ACCESS_LOG_BUFFER_BYTES: usize = 1 << 20;

/// A line of the access log waits in its buffer no longer than this (APISIX's `flush=3`).
/// Reached by: src/telemetry/lines.rs lines_leave_when_the_buffer_is_full_or_old_or_the_core_ends.
pub const ACCESS_LOG_AGE_MS: u64 = 3000;

/// Metric series of one core: 11 labels of 20 bytes and their values are about 500 bytes, so 16 MB. A label
/// that takes ever new values (a host, a path) fills this, not the memory; expired ones give way.
/// Reached by: src/telemetry/metrics.rs a_flood_of_labels_is_bounded_and_counted.
pub const METRIC_SERIES: usize = 32_768;

/// Bytes of one metric label; longer values are cut. APISIX cuts model names at 128, paths are longer.
/// Reached by: src/telemetry/metrics.rs a_flood_of_labels_is_bounded_and_counted.
pub const METRIC_LABEL_BYTES: usize = 512;

/// How long an Admin API client may take for its head, for its body, and between two requests, ms. Admin
/// clients are few and near; what waits longer has gone.
/// Reached by: src/control/admin/server.rs a_client_that_stops_is_not_waited_for_without_end.
pub const ADMIN_PATIENCE_MS: u64 = 60_000;

/// Connections to the Admin, Control, status and metrics servers together: each may hold a body of
/// [`ADMIN_BODY_BYTES`].
/// Reached by: tests/full.rs a_connection_too_many_of_the_control_api_waits.
pub const ADMIN_CONNECTIONS: usize = 256;

/// The longest `?wait=`, ms: a core that needs longer to apply a change is stuck.
/// Reached by: src/control/admin/tests/mod.rs a_core_that_is_stuck_is_not_waited_for_without_end.
pub const ADMIN_WAIT_MS: u64 = 60_000;

/// How long the Admin API waits for the feed before it looks for references to an object, ms. The feed is
/// milliseconds behind a store that is well.
/// Reached by: src/control/admin/tests/mod.rs a_feed_that_is_stuck_holds_a_check_of_references_up_for_a_moment.
pub const ADMIN_CATCH_UP_MS: u64 = 1_000;

/// How long `start` waits for a gateway to be up, ms: it may have to wait for its etcd.
/// Reached by: src/verbs.rs a_gateway_that_comes_late_is_waited_for_but_not_without_end, with less time.
pub const START_MS: u64 = 60_000;

/// How long TERM and INT let requests go on, ms: process managers kill after some tens of seconds.
/// Reached by: tests/signals.rs term_ends_within_ten_seconds.
pub const TERM_MS: u64 = 10_000;
/// How often an exchange looks whether the name of its upstream has been resolved, ms: once in the life of a
/// configuration.
/// Not reached by a test: an interval.
pub const NAME_TICK_MS: u32 = 5;
/// What one prometheus plugin remembers of requests it has seen (route, consumer, node, status): about 100
/// bytes each. Beyond it, it forgets all and looks series up again.
/// Reached by: tests/full.rs more_series_than_prometheus_remembers.
pub const KNOWN_SERIES: usize = 4096;
/// A GraphQL document that conditions look into, bytes, unless `graphql.max_size` says otherwise: APISIX's default.
/// Reached by: tests/full.rs a_longer_graphql_document_is_not_looked_into.
pub const GRAPHQL_BYTES: u64 = 1 << 20;
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
/// Not reached by a test: the upstream has said how many it takes before the second request in all but races.
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
/// OCSP responders that are asked at once: each certificate has its own hour.
/// Reached by: src/control/certificates.rs silent_responders_are_asked_a_few_at_once_and_not_waited_for_without_end.
pub const OCSP_CALLS: usize = 8;
/// How long a responder may take, ms: nobody waits for it.
/// Reached by: src/control/certificates.rs silent_responders_are_asked_a_few_at_once_and_not_waited_for_without_end.
pub const OCSP_PATIENCE_MS: u64 = 10_000;
/// A responder that has failed is asked again after this, s.
/// Reached by: src/control/certificates.rs answers_and_failures.
pub const OCSP_RETRY_S: i64 = 60;
/// The longest response, bytes: one certificate's has 500 to 3,000, and is sent with each handshake.
/// Reached by: src/control/certificates.rs a_response_has_a_longest_length.
pub const OCSP_ANSWER_BYTES: usize = 16 << 10;
/// Certificates of a response among which its signer is looked for: real ones have one.
/// Reached by: src/transport/ocsp.rs the_signer_is_looked_for_among_a_few_certificates.
pub const OCSP_CERTIFICATES: usize = 4;
/// Clocks of authorities and ours may differ by this, s: as OpenSSL's check in APISIX.
/// Reached by: src/transport/ocsp.rs an_answer_must_be_good_signed_and_timely.
pub const OCSP_SKEW_S: i64 = 300;
/// Certificates that are shown by their days left, those that expire first: 50,000 would be a metrics page of 5 MB.
/// Reached by: src/control/certificates.rs those_that_expire_first_are_shown_up_to_a_bound.
pub const CERTIFICATES_SHOWN: usize = 1_000;
/// Expired certificates of one load that get a line in the log each.
/// Reached by: tests/bounds.rs of_many_expired_certificates_some_have_a_line.
pub const EXPIRED_LINES: usize = 20;
/// Certificates that control reads before it looks after its other work: 10 µs each.
/// Reached by: src/control/certificates.rs a_load_of_certificates_is_read_in_slices.
pub const CERTIFICATES_PER_SLICE: usize = 100;

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
/// References that secret managers are asked for at once.
/// Reached by: src/control/secrets/managers.rs of_very_many_references_some_are_asked_for_at_once.
pub const SECRET_CALLS: usize = 16;
/// How long a secret manager may take, ms, if its object does not say: as in APISIX.
/// Reached by: src/control/secrets/vault.rs a_silent_manager_is_not_waited_for_without_end.
pub const SECRET_PATIENCE_MS: u64 = 5_000;
/// Access tokens that are kept for asking secret managers: accounts in use, as many as in APISIX.
/// Reached by: src/control/secrets/gcp.rs tokens_are_kept_until_they_end_and_not_without_bound.
pub const SECRET_TOKENS: usize = 8;
/// The longest answer of a secret manager, bytes: one secret with its members.
/// Reached by: src/control/secrets/vault.rs an_answer_has_a_longest_length.
pub const SECRET_ANSWER_BYTES: usize = 1 << 20;

/// Ports of one `stream_proxy` entry: each is a socket on each core. 4096 are far more than a range that anybody
/// serves, and with 64 cores still below what a process may open.
/// Reached by: src/config/read_stream.rs a_range_has_so_many_ports_at_most.
pub const STREAM_PORTS: usize = 4096;

/// A piece of a tunnel or of an xRPC session that says that more of its kind will come, bytes: half a shared receive buffer.
/// Not reached by a test: it chooses between two sizes of buffers, which carry the same bytes.
pub const BULK_PIECE: usize = 8 << 10;

/// Streams of an upstream's connection that were reset here and whose last frames may still come: all calls of some clients
/// that leave at once.
/// Not reached by a test: more calls would have to be broken off on one connection, which gets no more after
/// [`H2_LINK_BROKEN_OFF`].
pub const H2_LINK_REMEMBERED_RESETS: usize = 1_024;
/// So many pieces in a row change the size of receive buffers: to change costs a system call, and pieces of
/// 64 KiB in place of 16 save one each.
/// Not reached by a test: it chooses between two sizes of buffers, which carry the same bytes.
pub const BULK_CHANGE: u8 = 4;

/// The longest CONNECT packet of MQTT, bytes: ids, a will and credentials take some hundred; a will may carry a message.
/// Reached by: tests/bounds.rs a_first_packet_of_mqtt_has_a_longest_length.
pub const MQTT_CONNECT: usize = 64 << 10;
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
/// How long a goodbye of a pub/sub session may take to leave, ms.
/// Not reached by a test: the goodbye is seen to leave (tests/pubsub.rs); a client that does not take it, not yet.
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
/// Not reached by a test: the Kafka thread would have to stand still.
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

/// Bytes that an xRPC protocol may ask to see at once, before it says what becomes of them: a head.
/// Not reached by a test: no protocol that is served wants to see as much.
pub const RPC_HEAD: usize = 64 << 10;

/// Calls of one session under way, each about 100 bytes and what is logged of it: a client that sends more waits for
/// answers first. redis-benchmark's longest pipelines have some thousand.
/// Reached by: src/stream/protocols/redis/tests.rs a_client_may_have_so_many_commands_under_way.
pub const RPC_CALLS: usize = 16 << 10;

/// Connections that the sessions of a core share towards one node: one suffices for a server with one thread, the second
/// serves while a slow client holds up the first.
/// Not reached by a test: which connection carries a command shows in nothing but speed.
pub const LANES: usize = 2;

/// The same while all of them are held up.
/// Not reached by a test: which connection carries a command shows in nothing but speed.
pub const LANES_HELD_UP: usize = 8;

/// Bytes that wait on a shared connection for an upstream to take them; clients that have more wait.
/// Not reached by a test: how far a client runs ahead of its upstream shows in nothing but memory.
pub const LANE_QUEUE_BYTES: usize = 256 << 10;

/// Answers of a shared connection that wait for one client, bytes: about what a piece in flight takes. When a client has
/// more to come, its connection waits, and others on it.
/// Not reached by a test: how far an upstream runs ahead of a client shows in nothing but memory.
pub const LANE_INBOX_BYTES: usize = 64 << 10;

/// A client that takes nothing for so long while others on its connection wait is cut off, ms.
/// Not reached by a test: sessions that share connections are new, and none of their tests stops reading.
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
