//! Whether a proto object compiles (apisix/plugins/grpc-transcode/proto.lua): the text of a `.proto` file, or
//! a `FileDescriptorSet` as base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::DescriptorPool;
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

use crate::limits;

/// The name under which the text is compiled.
const NAME: &str = "content.proto";

/// The error is the compiler's, on one line.
pub(super) fn check_proto(content: &str) -> Result<(), String> {
    if is_too_deep(content) {
        return Err("it nests too deeply".to_owned());
    }
    let error = match compile(content) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let is_binary = STANDARD.decode(content).is_ok_and(|bytes| DescriptorPool::decode(&*bytes).is_ok());
    if is_binary { Ok(()) } else { Err(error) }
}

/// Do its brackets nest further than the compiler may be sent? Comments and quoted texts are left out; a quote that is not
/// closed ends with its line.
fn is_too_deep(content: &str) -> bool {
    let mut depth = 0_usize;
    let mut rest = content.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = match first {
            b'/' if behind.starts_with(b"/") => behind_any(behind, b"\n"),
            b'/' if behind.starts_with(b"*") => behind_any(&behind[1..], b"*/"),
            b'"' | b'\'' => behind_quote(behind, first),
            _ => behind,
        };
        match first {
            b'{' | b'[' | b'(' | b'<' => depth += 1,
            b'}' | b']' | b')' | b'>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limits::PROTO_DEPTH {
            return true;
        }
    }
    false
}

/// What follows the first `end`.
fn behind_any<'a>(text: &'a [u8], end: &[u8]) -> &'a [u8] {
    memchr::memmem::find(text, end).map_or(&[], |at| &text[at + end.len()..])
}

/// What follows the end of a quoted text.
fn behind_quote(mut text: &[u8], quote: u8) -> &[u8] {
    while let Some((&first, behind)) = text.split_first() {
        match first {
            b'\\' if !behind.starts_with(b"\n") => text = behind.get(1..).unwrap_or_default(),
            _ if first == quote || first == b'\n' => return behind,
            _ => text = behind,
        }
    }
    text
}

fn compile(content: &str) -> Result<(), String> {
    let mut resolver = ChainFileResolver::new();
    resolver.add(Only(content.to_owned()));
    resolver.add(GoogleFileResolver::new());
    let text = |error: protox::Error| error.to_string().replace('\n', " ");
    Compiler::with_file_resolver(resolver).open_file(NAME).map(drop).map_err(text)
}

/// The one file there is, beside Google's well-known ones: nothing is read from the disk.
struct Only(String);

impl FileResolver for Only {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match name {
            NAME => File::from_source(NAME, &self.0),
            _ => Err(protox::Error::file_not_found(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETER: &str = "syntax = \"proto3\";
        package proto;
        message Request { string name = 1; }
        service Hello { rpc Say (Request) returns (Request) {} }";

    #[test]
    fn text_and_descriptor_sets_are_accepted() {
        assert_eq!(check_proto(GREETER), Ok(()));
        let timestamp = GREETER.replace("package", "import \"google/protobuf/any.proto\"; package");
        assert_eq!(check_proto(&timestamp), Ok(()));
        // a set of one empty file called `a`
        assert_eq!(check_proto(&STANDARD.encode([0x0a, 3, 0x0a, 1, b'a'])), Ok(()));
    }

    #[test]
    fn what_does_not_compile_is_refused() {
        let twice = GREETER.replace("name = 1;", "name = 1; string other = 1;");
        let unknown = GREETER.replace("returns (Request)", "returns (Nobody)");
        let disk = GREETER.replace("package", "import \"/etc/passwd\"; package");
        for content in [&*twice, &unknown, &disk, "message {", "AAAA"] {
            assert!(check_proto(content).is_err(), "{content}");
        }
    }

    #[test]
    fn a_proto_that_nests_without_end_is_refused_and_one_of_some_depth_is_not() {
        let nested = |depth: usize, before: &str| {
            let (open, close) = ("message A {".repeat(depth), "}".repeat(depth));
            check_proto(&format!("syntax = \"proto3\"; {before} {open} {close}"))
        };
        let (most, too_deep) = (limits::PROTO_DEPTH, Err("it nests too deeply".to_owned()));
        assert_eq!(nested(most, ""), Ok(()));
        assert_eq!(nested(most + 1, ""), too_deep);
        // neither quotes in comments nor what looks like a comment in quotes hides anything
        for before in
            ["// don't\n", "/* don't */", "option java_package = \"/*\";", "option java_package = '\\'';"]
        {
            assert_eq!(nested(20_000, before), too_deep, "{before}");
        }
        let braces = "{".repeat(most + 1);
        let harmless = format!("/* {braces} */ option java_package = \"{braces}\"; // {braces}\n");
        assert_eq!(nested(1, &harmless), Ok(()));
    }
}
