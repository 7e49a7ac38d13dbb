//! Huffman coded strings of field sections (RFC 7541 section 5.2 and appendix B). The code is canonical, so that the
//! lengths of its symbols are all there is to write down.

/// Bits of each symbol; the last one is the end of the string, which may not occur in it.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const END: u16 = 256;
const LONGEST: usize = 30;

/// What decoding needs: symbols in the order of their codes, and for each length its first code and symbol.
struct Code {
    symbols: [u16; 257],
    first_code: [u32; LONGEST + 1],
    first_symbol: [u16; LONGEST + 1],
    count: [u16; LONGEST + 1],
}

const CODE: Code = {
    let mut code = Code {
        symbols: [0; 257],
        first_code: [0; LONGEST + 1],
        first_symbol: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
    };
    let (mut next, mut placed, mut length) = (0u32, 0, 1);
    while length <= LONGEST {
        next <<= 1;
        code.first_code[length] = next;
        code.first_symbol[length] = placed as u16;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                code.symbols[placed] = symbol as u16;
                placed += 1;
                next += 1;
                code.count[length] += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    code
};

/// For each first byte of a code that is no longer than that: its symbol and length; length 0 for the others.
const SHORT: [(u8, u8); 256] = {
    let mut short = [(0, 0); 256];
    let mut length = 1;
    while length <= 8 {
        let mut at = 0;
        while at < CODE.count[length] {
            let code = CODE.first_code[length] + at as u32;
            let symbol = CODE.symbols[(CODE.first_symbol[length] + at) as usize];
            let from = (code << (8 - length)) as usize;
            let mut fill = 0;
            while fill < 1 << (8 - length) {
                short[from + fill] = (symbol as u8, length as u8);
                fill += 1;
            }
            at += 1;
        }
        length += 1;
    }
    short
};

/// Appends what `coded` stands for. An error: it is no such string, or longer than `most` bytes.
pub fn decode(coded: &[u8], most: usize, out: &mut Vec<u8>) -> Result<(), ()> {
    let end = out.len() + most;
    let (mut window, mut bits) = (0u64, 0u32);
    for byte in coded {
        window = window << 8 | u64::from(*byte);
        bits += 8;
        while let Some((symbol, length)) = first(window, bits)? {
            if out.len() == end {
                return Err(());
            }
            out.push(symbol);
            bits -= length;
            window &= (1 << bits) - 1;
        }
    }
    // what fills the last byte is the beginning of the end symbol, all ones
    match bits < 8 && window == (1 << bits) - 1 {
        true => Ok(()),
        false => Err(()),
    }
}

/// The symbol that the `bits` low bits of `window` begin with, and its length; `None`: it is not all there.
fn first(window: u64, bits: u32) -> Result<Option<(u8, u32)>, ()> {
    let top = if bits >= 8 { window >> (bits - 8) } else { window << (8 - bits) } as usize & 255;
    let (symbol, length) = SHORT[top];
    if length > 0 {
        return Ok((u32::from(length) <= bits).then_some((symbol, u32::from(length))));
    }
    for length in 9..=(LONGEST as u32).min(bits) {
        let code = (window >> (bits - length)) as u32;
        let at = length as usize;
        if code >= CODE.first_code[at] && code - CODE.first_code[at] < u32::from(CODE.count[at]) {
            let symbol =
                CODE.symbols[usize::from(CODE.first_symbol[at]) + (code - CODE.first_code[at]) as usize];
            return if symbol == END { Err(()) } else { Ok(Some((symbol as u8, length))) };
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(coded: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        decode(coded, 100, &mut out).ok().map(|()| String::from_utf8_lossy(&out).into_owned())
    }

    /// RFC 7541 appendix C.
    #[test]
    fn the_examples_of_the_rfc() {
        let date = [
            0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66,
            0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff,
        ];
        for (coded, text) in [
            (
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x64, 0x02], "302"),
            (&date, "Mon, 21 Oct 2013 20:13:21 GMT"),
            (&[], ""),
        ] {
            assert_eq!(decoded(coded).as_deref(), Some(text));
        }
    }

    /// Each symbol, coded by hand with the canonical code, comes back.
    #[test]
    fn every_symbol() {
        for at in 0..256usize {
            let symbol = CODE.symbols[at];
            let length = LENGTHS[usize::from(symbol)];
            let within = at as u32 - u32::from(CODE.first_symbol[usize::from(length)]);
            let code = u64::from(CODE.first_code[usize::from(length)] + within);
            let padding = 40 - u32::from(length);
            let bits = code << padding | ((1 << padding) - 1);
            let coded = bits.to_be_bytes();
            let coded = &coded[3..3 + usize::from(length).div_ceil(8)];
            let mut out = Vec::new();
            assert!(decode(coded, 1, &mut out).is_ok(), "{symbol}");
            assert_eq!(out, [symbol as u8]);
        }
    }

    #[test]
    fn broken_strings() {
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), None, "the end symbol");
        assert_eq!(decoded(&[0x64, 0x02, 0xff]), None, "a whole byte of padding");
        assert_eq!(decoded(&[0x60]), None, "padding of zeros");
        let mut out = Vec::new();
        assert_eq!(decode(&[0x64, 0x02], 2, &mut out), Err(()), "longer than allowed");
    }
}
