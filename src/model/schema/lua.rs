//! How LuaJIT would print and compare a value: error texts quote numbers, strings and types in its manner.

use serde_json::Value;

/// `type(v)` of the value that cjson makes of this JSON.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "userdata",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) | Value::Object(_) => "table",
    }
}

/// A number as `tostring` gives it: `%.14g`.
pub fn number_text(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "nan"
        } else if number > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    // Rust's `{:e}` rounds to the digits asked for and tells the exponent after rounding, which decides the form.
    let scientific = format!("{number:.13e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..14).contains(&exponent) {
        let decimals = (13 - exponent).max(0) as usize;
        return without_trailing_zeros(&format!("{number:.decimals$}")).to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", without_trailing_zeros(mantissa), exponent.unsigned_abs())
}

fn without_trailing_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// A string as `%q` gives it: quoted, with quotes, backslashes and line feeds behind a backslash and other
/// control characters as decimal escapes.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' | '\\' | '\n' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_ascii_control() => {
                // A digit that follows would be read as part of the escape: pad it then.
                let next_is_digit = rest.peek().is_some_and(char::is_ascii_digit);
                let code = c as u32;
                out.push_str(&if next_is_digit { format!("\\{code:03}") } else { format!("\\{code}") });
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Equal as Lua values: numbers by value, an empty array like an empty object.
pub fn deep_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| deep_equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| deep_equal(a, b)))
        }
        (Value::Array(a), Value::Object(b)) => a.is_empty() && b.is_empty(),
        (Value::Object(a), Value::Array(b)) => a.is_empty() && b.is_empty(),
        (a, b) => a == b,
    }
}

/// Whether a string refers to a secret or an environment variable: `$secret://…`, `$env://…` or `$ENV://…`
/// (apisix/secret.lua, `is_secret_ref`).
pub fn is_secret_ref(text: &str) -> bool {
    let has_env = text.get(..7).is_some_and(|head| head.eq_ignore_ascii_case("$env://"));
    has_env || text.starts_with("$secret://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_percent_14g() {
        let table = [
            (0.0, "0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (1e13, "10000000000000"),
            (99999999999999.0, "99999999999999"),
            (1e14, "1e+14"),
            (123456789012345678.0, "1.2345678901235e+17"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e-300, "1e-300"),
            (0.30000000000000004, "0.3"),
            (f64::INFINITY, "inf"),
        ];
        for (number, text) in table {
            assert_eq!(number_text(number), text);
        }
    }

    #[test]
    fn strings_are_quoted_as_percent_q() {
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted("a\"b\\c\nd"), "\"a\\\"b\\\\c\\\nd\"");
        assert_eq!(quoted("\u{1}2\u{0}x\r"), "\"\\0012\\0x\\13\"");
        assert_eq!(quoted("é"), "\"é\"");
    }

    #[test]
    fn secret_references() {
        for text in ["$secret://vault/1/a", "$env://X", "$ENV://X", "$Env://x/y"] {
            assert!(is_secret_ref(text), "{text}");
        }
        for text in ["", "$", "secret://a", "$SECRET://a", "$env:/x", "$é€ñ"] {
            assert!(!is_secret_ref(text), "{text}");
        }
    }
}
