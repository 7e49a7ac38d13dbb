//! JSON as lua-cjson takes it. Users know its error texts, so a body that serde refuses is read again, only to
//! say what is wrong in cjson's words; and cjson lets line breaks stand in strings, as they do in many a
//! pasted curl command.

use serde_json::Value;

use crate::limits;

/// Reads a body. The error is cjson's text.
pub fn read(bytes: &[u8]) -> Result<Value, String> {
    let error = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let mut reader = Reader { bytes, at: 0 };
    reader.document()?;
    serde_json::from_slice(&escape_controls(bytes)).map_err(|_| error.to_string())
}

/// Raw control characters inside strings, escaped.
fn escape_controls(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let (mut in_string, mut escaped) = (false, false);
    for &byte in bytes {
        match byte {
            0..0x20 if in_string => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
        in_string ^= byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
    }
    out
}

/// What comes next, and where it begins.
struct Token {
    name: &'static str,
    at: usize,
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Reader<'_> {
    fn document(&mut self) -> Result<(), String> {
        let first = self.next();
        self.value(first, 0)?;
        match self.next() {
            Token { name: "T_END", .. } => Ok(()),
            other => Err(expected("the end", &other)),
        }
    }

    fn value(&mut self, token: Token, depth: usize) -> Result<(), String> {
        if depth > limits::SCHEMA_DEPTH {
            return Err(format!("Found too many nested data structures ({depth})"));
        }
        match token.name {
            "T_OBJ_BEGIN" => self.object(depth + 1),
            "T_ARR_BEGIN" => self.array(depth + 1),
            "T_STRING" | "T_NUMBER" | "T_BOOLEAN" | "T_NULL" => Ok(()),
            _ => Err(expected("value", &token)),
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), String> {
        let mut token = self.next();
        if token.name == "T_OBJ_END" {
            return Ok(());
        }
        loop {
            if token.name != "T_STRING" {
                return Err(expected("object key string", &token));
            }
            let colon = self.next();
            if colon.name != "T_COLON" {
                return Err(expected("colon", &colon));
            }
            let value = self.next();
            self.value(value, depth)?;
            match self.next() {
                Token { name: "T_OBJ_END", .. } => return Ok(()),
                Token { name: "T_COMMA", .. } => token = self.next(),
                other => return Err(expected("comma or object end", &other)),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), String> {
        let mut token = self.next();
        if token.name == "T_ARR_END" {
            return Ok(());
        }
        loop {
            self.value(token, depth)?;
            match self.next() {
                Token { name: "T_ARR_END", .. } => return Ok(()),
                Token { name: "T_COMMA", .. } => token = self.next(),
                other => return Err(expected("comma or array end", &other)),
            }
        }
    }

    fn next(&mut self) -> Token {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        let at = self.at;
        let rest = &self.bytes[at..];
        let (name, length) = match rest.first() {
            None | Some(0) => ("T_END", 0),
            Some(b'{') => ("T_OBJ_BEGIN", 1),
            Some(b'}') => ("T_OBJ_END", 1),
            Some(b'[') => ("T_ARR_BEGIN", 1),
            Some(b']') => ("T_ARR_END", 1),
            Some(b',') => ("T_COMMA", 1),
            Some(b':') => ("T_COLON", 1),
            Some(b'"') => return self.string(),
            Some(b'-' | b'0'..=b'9') => {
                let number = |b: &&u8| matches!(b, b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F' | b'x');
                ("T_NUMBER", rest.iter().take_while(number).count())
            }
            _ if rest.starts_with(b"true") => ("T_BOOLEAN", 4),
            _ if rest.starts_with(b"false") => ("T_BOOLEAN", 5),
            _ if rest.starts_with(b"null") => ("T_NULL", 4),
            Some(_) => ("invalid token", 0),
        };
        self.at += length;
        Token { name, at }
    }

    fn string(&mut self) -> Token {
        let begin = self.at;
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                None | Some(0) => return Token { name: "unexpected end of string", at: self.at },
                Some(b'"') => break,
                Some(b'\\') => {
                    match self.bytes.get(self.at + 1) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {}
                        Some(b'u')
                            if self.bytes[self.at..]
                                .get(2..6)
                                .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) => {}
                        Some(b'u') => return Token { name: "invalid unicode escape code", at: self.at },
                        _ => return Token { name: "invalid escape code", at: self.at },
                    }
                    self.at += 2;
                }
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        Token { name: "T_STRING", at: begin }
    }
}

fn expected(what: &str, found: &Token) -> String {
    format!("Expected {what} but found {} at character {}", found.name, found.at + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_are_those_of_cjson() {
        let table = [
            ("{", "Expected object key string but found T_END at character 2"),
            ("{\"a\":1,}", "Expected object key string but found T_OBJ_END at character 8"),
            ("{\"a\":1 \"b\":2}", "Expected comma or object end but found T_STRING at character 8"),
            ("{\"a\" 1}", "Expected colon but found T_NUMBER at character 6"),
            ("[1 2]", "Expected comma or array end but found T_NUMBER at character 4"),
            ("{} {}", "Expected the end but found T_OBJ_BEGIN at character 4"),
            ("abc", "Expected value but found invalid token at character 1"),
            ("{\"a\":}", "Expected value but found T_OBJ_END at character 6"),
            ("{\"a", "Expected object key string but found unexpected end of string at character 4"),
            ("{'a':1}", "Expected object key string but found invalid token at character 2"),
            ("", "Expected value but found T_END at character 1"),
        ];
        for (text, error) in table {
            assert_eq!(read(text.as_bytes()), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn line_breaks_may_stand_in_strings() {
        assert_eq!(read(b"{\"a\":\"x\n\ty\"}"), Ok(json!({"a": "x\n\ty"})));
        assert_eq!(read(b"{\n\"a\": 1\n}"), Ok(json!({"a": 1})));
    }
}
