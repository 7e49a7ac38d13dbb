//! The part of a URI after its literal prefix: `:name` for one segment, `*name` for all that follows.
//!
//! lua-resty-radixtree turns such a URI into a regular expression. Here it is matched by hand, backwards, in
//! time linear in the path for one `*`, and without its accidents: literal text is literal (there a `.` in
//! it is any byte), and parameters after a `*` have their own values (there its inner group shifts them).

use std::rc::Rc;

use smallvec::SmallVec;

use crate::exchange::PathParams;

#[derive(Debug, PartialEq, Eq, Hash)]
enum Piece {
    Literal(Box<[u8]>),
    /// `:name`, one segment that is not empty.
    Segment(Box<str>),
    /// `*name`, any bytes; the name of a bare `*` is `:ext`.
    Rest(Box<str>),
}

/// The pieces after the literal prefix.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Pattern(Box<[Piece]>);

/// What `*` captures when it has no name (lib/resty/radixtree.lua).
const EXT: &str = ":ext";

impl Pattern {
    /// Reads `uri` from `prefix` on. `None` where every path that begins with the prefix matches: there are
    /// no parameters, or only the `*` of a final `/*`, which [`Params::set_prefix`] captures.
    pub fn parse(uri: &str, prefix: usize) -> Option<Pattern> {
        let (before, rest) = uri.split_at(prefix);
        let mut at_start = before.is_empty() || before.ends_with('/');
        if rest == "*" {
            return None;
        }
        let (mut pieces, mut literal) = (Vec::new(), Vec::new());
        for (index, segment) in rest.split('/').enumerate() {
            if index > 0 {
                literal.push(b'/');
            }
            let piece = match segment.split_at_checked(1) {
                Some((":", name)) if at_start => Piece::Segment(name.into()),
                Some(("*", name)) if at_start => Piece::Rest(if name.is_empty() { EXT } else { name }.into()),
                _ => {
                    literal.extend_from_slice(segment.as_bytes());
                    at_start = true;
                    continue;
                }
            };
            at_start = true;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
            }
            pieces.push(piece);
        }
        if pieces.is_empty() {
            return None;
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.into()));
        }
        Some(Pattern(pieces.into()))
    }

    /// Whether all of `path` from `from` on matches; `spans` gets what each parameter captured, the last
    /// parameter first.
    ///
    /// Backwards, a segment's extent is certain (to the slash before it), and a `*` tries the shortest text
    /// first, which leaves the `*` before it the most, as greedy matching from the front would.
    fn capture(&self, path: &[u8], from: usize, spans: &mut Spans) -> bool {
        spans.clear();
        let (mut at, mut end) = (self.0.len(), path.len());
        // Of the last `*` begun: its piece, where it ends, where it now starts, and the spans before it.
        let mut star: Option<(usize, usize, usize, usize)> = None;
        loop {
            let text = &path[from..end];
            let taken = match at.checked_sub(1).map(|index| &self.0[index]) {
                None if end == from => return true,
                None => None,
                Some(Piece::Literal(literal)) => text.ends_with(literal).then_some(literal.len()),
                Some(Piece::Segment(_)) => {
                    let length = text.len() - memchr::memrchr(b'/', text).map_or(0, |slash| slash + 1);
                    spans.push(((end - length) as u32, end as u32));
                    (length > 0).then_some(length)
                }
                Some(Piece::Rest(_)) => {
                    star = Some((at, end, end, spans.len()));
                    spans.push((end as u32, end as u32));
                    Some(0)
                }
            };
            match taken {
                Some(length) => (at, end) = (at - 1, end - length),
                None => {
                    let Some((piece, star_end, start, captured)) = star else { return false };
                    if start == from {
                        return false;
                    }
                    star = Some((piece, star_end, start - 1, captured));
                    spans.truncate(captured);
                    spans.push(((start - 1) as u32, star_end as u32));
                    (at, end) = (piece - 1, start - 1);
                }
            }
        }
    }

    /// Names of the parameters, the last first.
    fn names_backwards(&self) -> impl Iterator<Item = &str> {
        self.0.iter().rev().filter_map(|piece| match piece {
            Piece::Literal(_) => None,
            Piece::Segment(name) | Piece::Rest(name) => Some(&**name),
        })
    }
}

type Spans = SmallVec<[(u32, u32); 4]>;

/// What the last match captured. One is kept and used again for each request.
#[derive(Debug, Default)]
pub struct Params {
    pattern: Option<Rc<Pattern>>,
    spans: Spans,
    /// Length of the literal prefix that matched, all of the path for an exact match.
    prefix: u32,
    /// Length of the URI that matched, as written.
    uri: u32,
}

impl Params {
    /// The value of parameter `name` (variable `uri_param_<name>`) in `path`, which must be the path that
    /// was matched.
    pub fn get<'p>(&self, name: &str, path: &'p [u8]) -> Option<&'p [u8]> {
        let Some(pattern) = &self.pattern else {
            let rest = path.get(self.prefix as usize..)?;
            return (name == EXT
                && self.uri == self.prefix + 1
                && path[..self.prefix as usize].ends_with(b"/"))
            .then_some(rest);
        };
        let at = pattern.names_backwards().position(|known| known == name)?;
        let (start, end) = *self.spans.get(at)?;
        path.get(start as usize..end as usize)
    }

    /// Which of the matched route's `uris` matched `path` (metric label `matched_uri`).
    pub fn matched_uri<'u>(&self, uris: &'u [Box<str>], path: &[u8]) -> Option<&'u str> {
        let prefix = path.get(..self.prefix as usize)?;
        uris.iter()
            .find(|uri| uri.len() == self.uri as usize && uri.as_bytes().starts_with(prefix))
            .map(|uri| &**uri)
    }

    /// The match captured nothing.
    pub fn has_none(&self) -> bool {
        self.pattern.is_none()
    }

    /// All parameters with their values in `path`, as in [`Params::get`].
    pub fn pairs(&self, path: &[u8]) -> PathParams {
        let names = self.pattern.iter().flat_map(|pattern| pattern.names_backwards());
        names.filter_map(|name| Some((name.into(), self.get(name, path)?.into()))).collect()
    }

    pub(super) fn clear(&mut self) {
        *self = Params::default();
    }

    /// Notes an exact match of a path.
    pub(super) fn set_exact(&mut self, length: usize) {
        (self.pattern, self.prefix, self.uri) = (None, length as u32, length as u32);
    }

    /// Notes a match by prefix of a URI with `rest` bytes after the prefix.
    pub(super) fn set_prefix(&mut self, prefix: usize, rest: u32) {
        (self.pattern, self.prefix, self.uri) = (None, prefix as u32, prefix as u32 + rest);
    }

    /// Tries `pattern` on `path` after its first `prefix` bytes.
    pub(super) fn set_pattern(
        &mut self,
        pattern: &Rc<Pattern>,
        path: &[u8],
        prefix: usize,
        rest: u32,
    ) -> bool {
        let matched = pattern.capture(path, prefix, &mut self.spans);
        if matched {
            self.set_prefix(prefix, rest);
            self.pattern = Some(pattern.clone());
        }
        matched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captures of `uri` on `path` in the order of the names, or `None`.
    fn captures(uri: &str, path: &str) -> Option<Vec<(String, String)>> {
        let prefix = uri.find([':', '*']).unwrap_or(uri.len());
        if !path.starts_with(&uri[..prefix]) {
            return None;
        }
        let mut params = Params::default();
        let Some(pattern) = Pattern::parse(uri, prefix).map(Rc::new) else {
            params.set_prefix(prefix, (uri.len() - prefix) as u32);
            let ext = params.get(":ext", path.as_bytes());
            return Some(
                ext.map(|ext| (":ext".into(), String::from_utf8(ext.into()).unwrap())).into_iter().collect(),
            );
        };
        if !params.set_pattern(&pattern, path.as_bytes(), prefix, (uri.len() - prefix) as u32) {
            return None;
        }
        assert_eq!(params.matched_uri(&["/other".into(), uri.into()], path.as_bytes()), Some(uri));
        let mut names: Vec<&str> = pattern.names_backwards().collect();
        names.reverse();
        let value =
            |name: &str| String::from_utf8(params.get(name, path.as_bytes()).unwrap().into()).unwrap();
        Some(names.into_iter().map(|name| (name.to_owned(), value(name))).collect())
    }

    #[test]
    fn matches_as_radixtree_does() {
        type Case<'a> = (&'a str, &'a str, Option<&'a [(&'a str, &'a str)]>);
        let cases: &[Case<'_>] = &[
            ("/name/*name", "/name/json", Some(&[("name", "json")])),
            ("/name/*name", "/name/", Some(&[("name", "")])),
            ("/name/*", "/name/json/foo/bar", Some(&[(":ext", "json/foo/bar")])),
            ("/name/:name/id/:id", "/name/json/id/1", Some(&[("name", "json"), ("id", "1")])),
            ("/name/:name/id/:id", "/name/json/id/", None),
            ("/name/:name/id/:id", "/name/json", None),
            ("/name/:name/id/:id", "/name/json/id/1/2", None),
            ("/name/:name/id/:id", "/name//id/1", None),
            (
                "/name/:name/id/:id/*other",
                "/name/json/id/1/foo/bar/gloo",
                Some(&[("name", "json"), ("id", "1"), ("other", "foo/bar/gloo")]),
            ),
            ("/:name/foo", "/json/foo", Some(&[("name", "json")])),
            ("/:name/foo", "/json/", None),
            ("/:name/", "/json/", Some(&[("name", "json")])),
            ("/:name/", "/json", None),
            ("/foo*", "/foobar", Some(&[])),
            ("/a:b/c", "/a-anything", Some(&[])),
            ("/a/*/b", "/a/x/y/b", Some(&[(":ext", "x/y")])),
            ("/a/*/b", "/a/x/bc", None),
            ("/a/*x/m/*y/z", "/a/1/m/2/m/3/z", Some(&[("x", "1/m/2"), ("y", "3")])),
            ("/a/*x/:last", "/a/1/2/3", Some(&[("x", "1/2"), ("last", "3")])),
            ("/a/:x/b.c", "/a/1/bxc", None),
            ("/a/*x\n", "/a/1\n2", Some(&[("x\n", "1\n2")])),
        ];
        for (uri, path, expected) in cases {
            let expected = expected.map(|pairs| {
                pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect::<Vec<_>>()
            });
            assert_eq!(captures(uri, path), expected, "{uri} on {path}");
        }
    }

    /// Many `*` on a long path that almost matches: regular expressions take exponential time on this.
    #[test]
    fn many_stars_are_not_slow() {
        let uri = format!("/{}", "*a/x/".repeat(40));
        let path = format!("/{}", "x/".repeat(4_000));
        assert_eq!(captures(&uri, &(path.clone() + "y")), None);
        assert!(captures(&uri, &path).is_some());
    }
}
