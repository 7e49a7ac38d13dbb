//! Which processor a core's thread runs on.

/// Processors that this process may use (its affinity mask counts, as in a container); at least one.
pub fn core_count() -> usize {
    core_affinity::get_core_ids().map_or(1, |ids| ids.len().max(1))
}

/// Pins the calling thread to the `index`-th of them, counted modulo their number; false when the host refuses.
pub fn pin(index: usize) -> bool {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    !ids.is_empty() && core_affinity::set_for_current(ids[index % ids.len()])
}
