//! Text with `$variables`, read once into pieces: plugin values, `vars_combinations` keys, log formats.
//!
//! The syntax is that of `core.utils.resolve_var` (apisix/core/utils.lua): `$name`, `${name}` and
//! `${name ?? default}`, where a name without braces is letters, digits, `_` and `.`. A `$` after a
//! backslash stays as it is, and so does the backslash.

use crate::exchange::Vars;

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Literal(Box<[u8]>),
    Variable { name: Box<str>, default: Option<Box<str>> },
}

/// A compiled template.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Template(Box<[Piece]>);

impl Template {
    /// Reads `text`. Every text is a template: what is no variable is literal.
    pub fn compile(text: &str) -> Template {
        let bytes = text.as_bytes();
        let (mut pieces, mut literal_from, mut at) = (Vec::new(), 0, 0);
        while let Some(dollar) = memchr::memchr(b'$', &bytes[at..]).map(|found| at + found) {
            at = dollar + 1;
            if dollar > 0 && bytes[dollar - 1] == b'\\' {
                continue;
            }
            let Some((variable, end)) = variable_at(text, at) else { continue };
            if literal_from < dollar {
                pieces.push(Piece::Literal(bytes[literal_from..dollar].into()));
            }
            pieces.push(variable);
            (literal_from, at) = (end, end);
        }
        if literal_from < bytes.len() {
            pieces.push(Piece::Literal(bytes[literal_from..].into()));
        }
        Template(pieces.into_boxed_slice())
    }

    /// Appends the text with its variables filled in, and returns how many of them had a value or a
    /// default; the others are empty. Many plugins fall back to another key when this is 0.
    pub fn render(&self, vars: &(impl Vars + ?Sized), out: &mut Vec<u8>) -> usize {
        self.render_with(vars, out, |value, out| out.extend_from_slice(value))
    }

    /// Would [`Template::render`] find any variable with a value or a default?
    pub fn resolves(&self, vars: &(impl Vars + ?Sized)) -> bool {
        self.0.iter().any(|piece| match piece {
            Piece::Literal(_) => false,
            Piece::Variable { name, default } => default.is_some() || vars.var(name).is_some(),
        })
    }

    /// As [`Template::render`], where `escape` appends each value (not the literals).
    pub fn render_with(
        &self,
        vars: &(impl Vars + ?Sized),
        out: &mut Vec<u8>,
        mut escape: impl FnMut(&[u8], &mut Vec<u8>),
    ) -> usize {
        let mut resolved = 0;
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text),
                Piece::Variable { name, default } => {
                    match (vars.var(name), default) {
                        (Some(value), _) => escape(&value, out),
                        (None, Some(default)) => escape(default.as_bytes(), out),
                        (None, None) => continue,
                    }
                    resolved += 1;
                }
            }
        }
        resolved
    }

    /// The text, if it has no variables.
    pub fn as_literal(&self) -> Option<&[u8]> {
        match &*self.0 {
            [] => Some(b""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

/// The variable whose name or brace begins at `at`, just after the `$`, and where it ends.
fn variable_at(text: &str, at: usize) -> Option<(Piece, usize)> {
    let rest = &text[at..];
    if let Some(inner) = rest.strip_prefix('{') {
        let length = inner.find('}').filter(|&length| length > 0)?;
        return Some((with_default(inner[..length].trim_ascii()), at + 1 + length + 1));
    }
    let name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
    let length = rest.bytes().take_while(name).count();
    (length > 0).then(|| (Piece::Variable { name: rest[..length].into(), default: None }, at + length))
}

/// `name ?? default`; what follows a second `??` is dropped, and an empty default is none (a trailing
/// empty part is lost in APISIX's split).
fn with_default(inner: &str) -> Piece {
    let mut parts = inner.split("??").map(str::trim_ascii);
    let name = parts.next().unwrap_or_default().into();
    let more = parts.next();
    let lost = more == Some("") && parts.all(str::is_empty);
    Piece::Variable { name, default: more.filter(|_| !lost).map(Box::from) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    struct Table(&'static [(&'static str, &'static str)]);
    impl Vars for Table {
        fn var(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| Cow::Borrowed(value.as_bytes()))
        }
    }
    const VARS: Table = Table(&[("a", "1"), ("host", "foo.com"), ("post_arg.x.y", "deep"), ("empty", "")]);

    fn render(text: &str) -> (String, usize) {
        let mut out = Vec::new();
        let resolved = Template::compile(text).render(&VARS, &mut out);
        (String::from_utf8(out).unwrap(), resolved)
    }

    #[test]
    fn resolves_as_apisix_does() {
        for (text, expected, resolved) in [
            ("", "", 0),
            ("plain", "plain", 0),
            ("$a", "1", 1),
            ("x$a-$host/", "x1-foo.com/", 2),
            ("${a}b$ab", "1b", 1),
            ("${ host }", "foo.com", 1),
            ("$post_arg.x.y!", "deep!", 1),
            ("$missing", "", 0),
            ("${missing ?? dflt}", "dflt", 1),
            ("${missing??a b}", "a b", 1),
            ("${missing ?? x ?? y}", "x", 1),
            ("${missing ?? }", "", 0),
            ("${a ?? x}", "1", 1),
            ("[$empty]", "[]", 1),
            (r"\$a $a", r"\$a 1", 1),
            ("$ $$a ${} ${a", "$ $1 ${} ${a", 1),
            ("5$", "5$", 0),
            ("é$a", "é1", 1),
        ] {
            assert_eq!(render(text), (expected.to_owned(), resolved), "{text}");
            assert_eq!(Template::compile(text).resolves(&VARS), resolved > 0, "{text}");
        }
    }

    #[test]
    fn escapes_values_and_not_literals() {
        let mut out = Vec::new();
        let shout = |value: &[u8], out: &mut Vec<u8>| out.extend(value.to_ascii_uppercase());
        Template::compile("x-$host").render_with(&VARS, &mut out, shout);
        assert_eq!(out, b"x-FOO.COM");
    }

    #[test]
    fn knows_when_it_is_literal() {
        assert_eq!(Template::compile(r"a\$b").as_literal(), Some(&br"a\$b"[..]));
        assert_eq!(Template::compile("").as_literal(), Some(&b""[..]));
        assert_eq!(Template::compile("$a").as_literal(), None);
    }

    #[test]
    fn no_text_panics() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let letters = ['$', '$', '{', '}', ' ', '?', '\\', 'a', 'é', '.'];
            let text: String =
                (0..random.usize(0..12)).map(|_| letters[random.usize(..letters.len())]).collect();
            render(&text);
        }
    }
}
