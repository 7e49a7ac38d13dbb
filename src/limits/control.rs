//! Of the control thread: stores, feed, Admin API, names, probes, certificates, secrets.

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

/// Sockets that active health probes may have open at one time, over all upstreams: a probe that waits for
/// one is late, not lost.
/// Reached by: src/control/probe/tests.rs probes_beyond_the_bound_of_the_process_are_late_not_lost.
pub const PROBES_IN_FLIGHT: usize = 256;

/// Bytes of a probe's answer that are searched for the end of the status line.
/// Reached by: src/control/probe/tests.rs a_status_line_without_end_is_a_failure_at_once.
pub const PROBE_STATUS_LINE: usize = 4096;

/// Questions to name servers under way at one time.
/// Reached by: src/control/dns/tests.rs questions_and_names_have_bounds.
pub const DNS_IN_FLIGHT: usize = 64;

/// Names of nodes that are kept fresh. 10,000 with a TTL of 30 s are 333 questions a second already.
/// Reached by: src/control/dns/tests.rs questions_and_names_have_bounds.
pub const DNS_NAMES: usize = 10_000;

/// The body of an Admin API call: 1.5 MiB (apisix/admin/init.lua).
/// Reached by: src/control/admin/server.rs a_body_beyond_the_limit_is_not_kept.
pub const ADMIN_BODY_BYTES: usize = 1536 << 10;

/// A whole configuration in one call, in the API-driven standalone mode: 100,000 routes of 600 bytes.
/// Reached by: src/control/admin/server.rs a_body_beyond_the_limit_is_not_kept, with the other limit.
pub const STANDALONE_BODY_BYTES: usize = 64 << 20;

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

/// How often an exchange looks whether the name of its upstream has been resolved, ms: once in the life of a
/// configuration.
/// Not reached by a test: an interval.
pub const NAME_TICK_MS: u32 = 5;

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
