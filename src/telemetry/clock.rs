//! The wall clock as HTTP prints it, made once a second by each core.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::reactor;
use crate::wire::http::write::http_date;

thread_local! {
    /// The core's clock when the text was made, and the text.
    static DATE: Cell<Option<(u64, [u8; 29])>> = const { Cell::new(None) };
}

/// The `Date` header of this moment. At most a second old.
pub fn date() -> [u8; 29] {
    let now_ms = reactor::now_ms();
    if let Some((made_ms, text)) = DATE.get()
        && now_ms.saturating_sub(made_ms) < 500
    {
        return text;
    }
    let text = http_date(unix_s());
    DATE.set(Some((now_ms, text)));
    text
}

/// The wall clock, seconds since 1970.
pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
