//! Whether a proto object compiles (apisix/plugins/grpc-transcode/proto.lua): the text of a `.proto` file, or
//! a `FileDescriptorSet` as base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::DescriptorPool;
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

/// The name under which the text is compiled.
const NAME: &str = "content.proto";

/// The error is the compiler's, on one line.
pub(super) fn check_proto(content: &str) -> Result<(), String> {
    let error = match compile(content) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let is_binary = STANDARD.decode(content).is_ok_and(|bytes| DescriptorPool::decode(&*bytes).is_ok());
    if is_binary { Ok(()) } else { Err(error) }
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
}
