//! Of logs and metrics.

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

/// What one prometheus plugin remembers of requests it has seen (route, consumer, node, status): about 100
/// bytes each. Beyond it, it forgets all and looks series up again.
/// Reached by: tests/full.rs more_series_than_prometheus_remembers.
pub const KNOWN_SERIES: usize = 4096;
