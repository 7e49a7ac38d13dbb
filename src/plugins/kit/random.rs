//! Randomness for identifiers: bytes that nobody can foresee, a few at a time.
//!
//! A draw from the generator costs the same for sixteen bytes as for hundreds, so each core draws ahead.

use std::cell::RefCell;

/// Drawn ahead, bytes: 32 identifiers of 16.
const AHEAD: usize = 512;

struct Drawn {
    bytes: [u8; AHEAD],
    used: usize,
}

thread_local! {
    static DRAWN: RefCell<Drawn> = const { RefCell::new(Drawn { bytes: [0; AHEAD], used: AHEAD }) };
}

/// Fills `bytes`.
pub fn fill(bytes: &mut [u8]) {
    if bytes.len() > AHEAD {
        return draw(bytes);
    }
    DRAWN.with_borrow_mut(|drawn| {
        if AHEAD - drawn.used < bytes.len() {
            draw(&mut drawn.bytes);
            drawn.used = 0;
        }
        let from = drawn.used;
        drawn.used += bytes.len();
        bytes.copy_from_slice(&drawn.bytes[from..drawn.used]);
        drawn.bytes[from..drawn.used].fill(0); // what was given away is nobody else's
    });
}

/// Only a host without any randomness makes the generator fail, and then its TLS, too.
fn draw(bytes: &mut [u8]) {
    if aws_lc_rs::rand::fill(bytes).is_err() {
        fastrand::fill(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_bytes_come_twice() {
        let draws = (0..200).map(|_| {
            let mut bytes = [0; 16];
            fill(&mut bytes);
            bytes.to_vec()
        });
        let mut seen: HashSet<Vec<u8>> = draws.collect();
        let mut long = vec![0; 3 * AHEAD];
        fill(&mut long);
        seen.extend(long.chunks(16).map(<[u8]>::to_vec));
        assert_eq!(seen.len(), 200 + 3 * AHEAD / 16);
    }
}
