//! As much of HTTP/3 (RFC 9114) and QPACK (RFC 9204) as a load generator needs: requests are encoded once, without
//! Huffman coding or a dynamic table, and of an answer the status and the length of its body are read.

/// The client's control stream: its type and empty SETTINGS.
pub const CONTROL: [u8; 3] = [0x00, 0x04, 0x00];

const DATA: u64 = 0;
const HEADERS: u64 = 1;
/// What is kept of a field section: two bytes of prefix and the first field line's first byte.
const SECTION_START: usize = 3;
/// `:status: 200`, entry 25 of the static table, as an indexed field line.
const STATUS_200: u8 = 0xc0 | 25;

/// A GET request as one HEADERS frame.
pub fn request(authority: &str, path: &str, headers: &[(String, String)]) -> Vec<u8> {
    // no dynamic table; :method GET; :scheme https
    let mut section = vec![0, 0, 0xc0 | 17, 0xc0 | 23];
    section.push(0x50); // literal with the static name :authority
    text(&mut section, 0, 7, authority);
    section.push(0x51); // and :path
    text(&mut section, 0, 7, path);
    for (name, value) in headers {
        text(&mut section, 0x20, 3, name);
        text(&mut section, 0, 7, value);
    }
    let mut frame = vec![HEADERS as u8];
    varint(&mut frame, section.len() as u64);
    frame.extend(section);
    frame
}

/// A string literal: its length as a prefixed integer (RFC 7541 section 5.1), then its bytes.
fn text(out: &mut Vec<u8>, flags: u8, prefix_bits: u32, text: &str) {
    let most = (1 << prefix_bits) - 1;
    match text.len() {
        length if length < most => out.push(flags | length as u8),
        length => {
            out.push(flags | most as u8);
            let mut rest = length - most;
            while rest >= 128 {
                out.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            out.push(rest as u8);
        }
    }
    out.extend_from_slice(text.as_bytes());
}

fn varint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..64 => out.push(value as u8),
        _ => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
    }
}

/// An answer being read.
#[derive(Default)]
pub struct Answer {
    /// A final 200 was seen.
    pub good: bool,
    /// Bytes of DATA.
    pub body_bytes: u64,
    /// Bytes of the frame under way that are still to come.
    left: u64,
    kind: u64,
    /// A frame's head that has not wholly arrived, then the first bytes of a field section.
    start: Vec<u8>,
    in_frame: bool,
}

impl Answer {
    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if !self.in_frame {
                self.start.push(bytes[0]);
                bytes = &bytes[1..];
                self.begin_frame();
                continue;
            }
            let taken = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            match self.kind {
                DATA => self.body_bytes += taken as u64,
                HEADERS if self.start.len() < SECTION_START => {
                    let wanted = SECTION_START - self.start.len();
                    self.start.extend_from_slice(&bytes[..taken.min(wanted)]);
                    if self.start.len() == SECTION_START && self.body_bytes == 0 {
                        self.good |= self.start == [0, 0, STATUS_200];
                    }
                }
                _ => {}
            }
            self.left -= taken as u64;
            bytes = &bytes[taken..];
            self.end_frame();
        }
    }

    /// The stream has ended: between two frames?
    pub fn is_whole(&self) -> bool {
        !self.in_frame && self.start.is_empty()
    }

    fn begin_frame(&mut self) {
        let Some((kind, used)) = read_varint(&self.start) else { return };
        let Some((length, _)) = read_varint(&self.start[used..]) else { return };
        (self.kind, self.left, self.in_frame) = (kind, length, true);
        self.start.clear();
        self.end_frame();
    }

    fn end_frame(&mut self) {
        if self.left == 0 {
            self.in_frame = false;
            self.start.clear();
        }
    }
}

/// A variable-length integer (RFC 9000 section 16) and its length.
fn read_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let rest = bytes.get(1..length)?;
    Some((rest.iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte)), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_answer_in_any_pieces() {
        let answer = [1, 4, 0, 0, STATUS_200, 0xc1, 0, 3, b'a', b'b', b'c', 0x40, 0x21, 1, 9, 0, 1, b'd'];
        for size in 1..answer.len() {
            let mut read = Answer::default();
            for piece in answer.chunks(size) {
                read.feed(piece);
            }
            assert!(read.good && read.is_whole());
            assert_eq!(read.body_bytes, 4);
        }
    }

    #[test]
    fn another_status_is_not_good() {
        let mut read = Answer::default();
        read.feed(&[1, 3, 0, 0, 0xc0 | 27]);
        assert!(!read.good && read.is_whole());
    }

    #[test]
    fn long_strings_carry_their_length_in_more_bytes() {
        let mut out = Vec::new();
        text(&mut out, 0, 7, &"x".repeat(300));
        assert_eq!(out[..3], [127, 0x80 | 45, 1]);
    }
}
