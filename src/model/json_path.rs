//! The JSONPaths of `post_arg.*`: below the root of a request's body.

use serde_json_path::JsonPath;

use crate::limits;

/// Compiles a path.
///
/// # Errors
/// What is wrong with it.
pub fn body_path(path: &str) -> Result<JsonPath, String> {
    if is_too_deep(path) {
        return Err("it nests too deeply".to_owned());
    }
    JsonPath::parse(&format!("$.{path}")).map_err(|error| error.to_string())
}

/// Do its brackets nest further than its parser may be sent? Those in quotes are left out.
fn is_too_deep(path: &str) -> bool {
    let mut depth = 0_usize;
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'(' => depth += 1,
            b']' | b')' => depth = depth.saturating_sub(1),
            b'"' | b'\'' => {
                while let Some(inner) = bytes.next().filter(|inner| *inner != byte) {
                    if inner == b'\\' {
                        bytes.next();
                    }
                }
            }
            _ => {}
        }
        if depth > limits::JSON_PATH_DEPTH {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_quotes_do_not_count() {
        let quoted = format!(r#"a["{0}\"{0}"]['{0}']"#, "[(".repeat(10));
        assert!(body_path(&quoted).is_ok());
        let unclosed = format!("a['x'{}", "[?@.a".repeat(limits::JSON_PATH_DEPTH));
        assert_eq!(body_path(&unclosed).unwrap_err(), "it nests too deeply");
        let flat = "[?@.a]".repeat(100);
        assert!(body_path(&format!("a{flat}")).is_ok());
    }
}
