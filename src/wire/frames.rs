//! The frames of HTTP/2 seen from outside: what a peer sends is weighed before it is read (RFC 9113 section 10.5).
//!
//! Every frame costs its receiver something, and some bring nothing: pings, settings, priorities, resets, empty data.
//! A connection has an allowance of such frames; requests, data and time earn more. Who overdraws it floods.

use crate::limits;

/// Watches one direction of a connection.
#[derive(Clone, Debug)]
pub struct FrameWatch {
    /// Bytes of the preface or of a payload that are still to come.
    skip: usize,
    /// The head of a frame, as far as it has come.
    head: [u8; 9],
    have: usize,
    /// Frames that may yet come for nothing.
    allowance: u32,
    earned_ms: u64,
    /// Bytes sent to the peer that have not earned a frame yet.
    sent: usize,
    /// Bytes that we owe for its pings and settings: they earn nothing.
    owed: usize,
    /// A header block began then and has not ended.
    block_since_ms: Option<u64>,
}

/// Why nothing more is read from a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The kind of frame that was one too many.
    Flood(&'static str),
    /// A frame of this kind cannot be so long (section 4.2). Its head is not whole in the first `good` of the bytes that
    /// were looked at last.
    Size {
        /// Bytes that may be read.
        good: usize,
    },
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The first bytes of a client (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl FrameWatch {
    /// What a client sends: its preface comes first.
    pub fn of_client(now_ms: u64) -> Self {
        FrameWatch {
            skip: PREFACE.len(),
            head: [0; 9],
            have: 0,
            allowance: limits::H2_ALLOWANCE,
            earned_ms: now_ms,
            sent: 0,
            owed: 0,
            block_since_ms: None,
        }
    }

    /// What a server sends.
    pub fn of_server(now_ms: u64) -> Self {
        FrameWatch { skip: 0, ..FrameWatch::of_client(now_ms) }
    }

    /// We have sent so much: the peer may answer it with window updates and pings.
    pub fn sent(&mut self, bytes: usize) {
        let replies = bytes.min(self.owed);
        self.owed -= replies;
        self.sent += bytes - replies;
        self.earn(self.sent / limits::H2_BYTES_PER_FRAME);
        self.sent %= limits::H2_BYTES_PER_FRAME;
    }

    /// When the header block began that has not ended, if one is open.
    pub fn block_since_ms(&self) -> Option<u64> {
        self.block_since_ms
    }

    /// Looks at the next bytes that have come.
    ///
    /// # Errors
    /// The peer floods, or sends a frame of a wrong size.
    pub fn observe(&mut self, all: &[u8], now_ms: u64) -> Result<(), Fault> {
        let mut bytes = all;
        let passed_ms = now_ms.saturating_sub(self.earned_ms);
        if passed_ms >= 1000 {
            self.earned_ms = now_ms;
            let passed_s = usize::try_from(passed_ms / 1000).unwrap_or(usize::MAX);
            self.earn(passed_s.saturating_mul(limits::H2_FRAMES_PER_S));
        }
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (self.head.len() - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == self.head.len() {
                self.have = 0;
                if !self.has_its_size() {
                    return Err(Fault::Size { good: all.len() - bytes.len() - 1 });
                }
                self.frame(now_ms)?;
            }
        }
        Ok(())
    }

    /// The length of the payload whose head is there.
    fn length(&self) -> usize {
        let [a, b, c, ..] = self.head;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }

    /// Those frames whose payload has one size end the connection if they have another (sections 6.4, 6.5, 6.7, 6.9).
    fn has_its_size(&self) -> bool {
        let (length, kind, flags) = (self.length(), self.head[3], self.head[4]);
        match kind {
            RST_STREAM | WINDOW_UPDATE => length == 4,
            SETTINGS if flags & ACK != 0 => length == 0,
            SETTINGS => length.is_multiple_of(6),
            PING => length == 8,
            _ => true,
        }
    }

    /// A head of a frame is there.
    fn frame(&mut self, now_ms: u64) -> Result<(), Fault> {
        let (kind, flags) = (self.head[3], self.head[4]);
        self.skip = self.length();
        match kind {
            DATA if self.skip > 0 => self.earn(1),
            DATA if flags & END_STREAM != 0 => {}
            HEADERS => {
                self.earn(limits::H2_FRAMES_PER_REQUEST);
                self.block_since_ms = (flags & END_HEADERS == 0).then_some(now_ms);
            }
            _ => {
                if kind == CONTINUATION && flags & END_HEADERS != 0 {
                    self.block_since_ms = None;
                }
                self.owed += match (kind, flags & ACK) {
                    (PING, 0) => self.head.len() + self.skip,
                    (SETTINGS, 0) => self.head.len(),
                    _ => 0,
                };
                let name = ["DATA", "", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING"];
                let name = *name.get(usize::from(kind)).unwrap_or(match kind {
                    WINDOW_UPDATE => &"WINDOW_UPDATE",
                    CONTINUATION => &"CONTINUATION",
                    _ => &"unknown",
                });
                self.allowance = self.allowance.checked_sub(1).ok_or(Fault::Flood(name))?;
            }
        }
        Ok(())
    }

    fn earn(&mut self, frames: usize) {
        let frames = u32::try_from(frames).unwrap_or(u32::MAX);
        self.allowance = self.allowance.saturating_add(frames).min(limits::H2_ALLOWANCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0, (payload >> 8) as u8, payload as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(9 + payload, 0);
        frame
    }

    /// How many of these frames pass, up to a bound.
    fn passed(watch: &mut FrameWatch, frame: &[u8]) -> u32 {
        let mut passes = || {
            let mut next = watch.clone();
            let passes = next.observe(frame, 0).is_ok();
            if passes {
                *watch = next;
            }
            passes
        };
        (0..10_000).take_while(|_| passes()).count() as u32
    }

    #[test]
    fn frames_that_bring_nothing_are_counted() {
        for (kind, flags, payload, name) in [
            (6, 0, 8, "PING"),
            (4, 0, 0, "SETTINGS"),
            (2, 0, 5, "PRIORITY"),
            (3, 0, 4, "RST_STREAM"),
            (8, 0, 4, "WINDOW_UPDATE"),
            (0, 0, 0, "DATA"),
            (9, 0, 0, "CONTINUATION"),
            (0xfa, 0, 3, "unknown"),
        ] {
            let mut watch = FrameWatch::of_server(0);
            let frame = frame(kind, flags, payload);
            assert_eq!(passed(&mut watch, &frame), limits::H2_ALLOWANCE, "{name}");
            assert_eq!(watch.observe(&frame, 0), Err(Fault::Flood(name)));
        }
    }

    #[test]
    fn requests_data_time_and_answers_earn() {
        let priority = frame(2, 0, 5);
        let mut watch = FrameWatch::of_server(0);
        passed(&mut watch, &priority);
        watch.observe(&frame(HEADERS, END_HEADERS, 10), 0).unwrap();
        assert_eq!(passed(&mut watch, &priority), limits::H2_FRAMES_PER_REQUEST as u32);
        watch.observe(&frame(DATA, 0, 1), 0).unwrap();
        assert_eq!(passed(&mut watch, &priority), 1);
        watch.sent(limits::H2_BYTES_PER_FRAME * 3 + 1);
        assert_eq!(passed(&mut watch, &priority), 3);
        watch.sent(limits::H2_BYTES_PER_FRAME - 1);
        assert_eq!(passed(&mut watch, &priority), 1, "what is left of the bytes counts, too");
        watch.observe(&[], 2000).unwrap();
        assert_eq!(passed(&mut watch, &priority), 2 * limits::H2_FRAMES_PER_S as u32);
        assert_eq!(passed(&mut watch, &frame(DATA, END_STREAM, 0)), 10_000, "the end of a message is one");
    }

    #[test]
    fn replies_to_pings_earn_none() {
        let ping = frame(6, 0, 8);
        let mut pinged = FrameWatch::of_server(0);
        passed(&mut pinged, &ping);
        pinged.sent(17 * limits::H2_ALLOWANCE as usize);
        assert_eq!(passed(&mut pinged, &ping), 0);
    }

    #[test]
    fn frames_are_found_wherever_they_are_cut() {
        let mut bytes = PREFACE.to_vec();
        for n in 0..20 {
            bytes.extend(frame(6, 0, 8));
            bytes.extend(frame(DATA, 0, n * 37));
            bytes.extend(frame(HEADERS, 0, 5));
            bytes.extend(frame(CONTINUATION, END_HEADERS, n));
        }
        let mut whole = FrameWatch::of_client(0);
        whole.observe(&bytes, 0).unwrap();
        for size in [1, 2, 7, 9, 10, 64] {
            let mut cut = FrameWatch::of_client(0);
            bytes.chunks(size).for_each(|piece| cut.observe(piece, 0).unwrap());
            assert_eq!(format!("{cut:?}"), format!("{whole:?}"), "in pieces of {size}");
        }
    }

    #[test]
    fn a_frame_of_a_wrong_size_is_found_before_its_head_is_whole() {
        for (kind, flags, length, is_right) in [
            (3, 0, 4, true),
            (3, 0, 5, false),
            (4, 0, 12, true),
            (4, 0, 5, false),
            (4, ACK, 0, true),
            (4, ACK, 6, false),
            (6, 0, 8, true),
            (6, 0, 0, false),
            (8, 0, 4, true),
            (8, 0, 3, false),
            (DATA, 0, 3, true),
        ] {
            let mut watch = FrameWatch::of_server(0);
            let bytes = [frame(DATA, 0, 7), frame(kind, flags, length)].concat();
            let expected = if is_right { Ok(()) } else { Err(Fault::Size { good: 16 + 8 }) };
            assert_eq!(watch.observe(&bytes, 0), expected, "{kind} of {length}");
            let mut cut = FrameWatch::of_server(0);
            let (first, rest) = bytes.split_at(20);
            cut.observe(first, 0).unwrap();
            let expected = if is_right { Ok(()) } else { Err(Fault::Size { good: 4 }) };
            assert_eq!(cut.observe(rest, 0), expected, "{kind} of {length}");
        }
    }

    #[test]
    fn an_open_header_block_is_known() {
        let mut watch = FrameWatch::of_server(0);
        watch.observe(&frame(HEADERS, END_STREAM, 4), 7).unwrap();
        assert_eq!(watch.block_since_ms(), Some(7));
        watch.observe(&frame(CONTINUATION, 0, 4), 9).unwrap();
        assert_eq!(watch.block_since_ms(), Some(7));
        watch.observe(&frame(CONTINUATION, END_HEADERS, 4), 11).unwrap();
        assert_eq!(watch.block_since_ms(), None);
    }
}
