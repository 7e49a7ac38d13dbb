//! How long a client may still send when it has got its answer (ngx_http_request.c, `ngx_http_lingering_close_handler`).

use crate::limits;

/// A client that is left soon, since when its answer was whole.
#[derive(PartialEq, Eq, Debug, Clone, Copy)]
pub struct Linger {
    until_ms: u64,
}

impl Linger {
    /// It has got its answer at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Linger { until_ms: now_ms + limits::LINGER_TOTAL_MS }
    }

    /// Its time ends then.
    #[cfg(test)]
    pub fn until(until_ms: u64) -> Self {
        Linger { until_ms }
    }

    /// Up to when it is waited for now, after it sent something or at first. `None`: no more at all.
    pub fn next(self, now_ms: u64) -> Option<u64> {
        (now_ms < self.until_ms).then(|| self.until_ms.min(now_ms + limits::LINGER_IDLE_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_send_on_for_as_long_as_in_nginx() {
        let linger = Linger::new(1_000);
        assert_eq!(linger.next(1_000), Some(6_000), "5 s for the first byte");
        assert_eq!(linger.next(5_999), Some(10_999), "and for each that follows");
        assert_eq!(linger.next(29_000), Some(31_000), "30 s in all");
        assert_eq!(linger.next(31_000), None);
        assert_eq!(linger.next(u64::MAX), None);
    }
}
