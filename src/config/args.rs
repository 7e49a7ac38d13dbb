//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the user asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Verb {
    /// `run`, the default: start in the foreground.
    Run {
        /// `-c`, `--config`
        config: Option<PathBuf>,
    },
    /// `test`: check the configuration.
    Test {
        /// `-c`, `--config`
        config: Option<PathBuf>,
    },
    /// `version`
    Version,
    /// `help`
    Help,
}

/// The text of `help`.
pub const HELP: &str = "\
Usage: ringway [run|test|version|help] [-c FILE]

  run       start the gateway in the foreground (the default)
  test      check the configuration: says what is wrong, with file and line
  version   print the version
  help      print this

  -c, --config FILE   the configuration; conf/config.yaml if not given
                      (conf/config-<profile>.yaml if APISIX_PROFILE is set)

Signals: QUIT ends when the requests in flight are answered, TERM and INT after 10 s at most,
USR1 reopens the logs.
";

/// Reads the arguments (without the program's name). The error is a line for the user.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Verb, String> {
    use lexopt::prelude::*;
    let mut parser = lexopt::Parser::from_args(args);
    let mut verb: Option<String> = None;
    let mut config = None;
    while let Some(arg) = parser.next().map_err(|e| e.to_string())? {
        match arg {
            Short('c') | Long("config") => {
                config = Some(PathBuf::from(parser.value().map_err(|e| e.to_string())?));
            }
            Short('h') | Long("help") => return Ok(Verb::Help),
            Short('v' | 'V') | Long("version") => return Ok(Verb::Version),
            Value(word) if verb.is_none() => verb = Some(word.to_string_lossy().into_owned()),
            other => return Err(other.unexpected().to_string()),
        }
    }
    match verb.as_deref() {
        None | Some("run") => Ok(Verb::Run { config }),
        Some("test") => Ok(Verb::Test { config }),
        Some("version") => Ok(Verb::Version),
        Some("help") => Ok(Verb::Help),
        Some(other) => Err(format!("unknown command \"{other}\"; try: ringway help")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let of = |line: &str| parse(line.split_whitespace().map(OsString::from));
        let conf = Some(PathBuf::from("a.yaml"));
        assert_eq!(of(""), Ok(Verb::Run { config: None }));
        assert_eq!(of("run -c a.yaml"), Ok(Verb::Run { config: conf.clone() }));
        assert_eq!(of("-c a.yaml test"), Ok(Verb::Test { config: conf.clone() }));
        assert_eq!(of("test --config=a.yaml"), Ok(Verb::Test { config: conf }));
        assert_eq!(of("version"), Ok(Verb::Version));
        assert_eq!(of("--help"), Ok(Verb::Help));
        assert_eq!(of("frob").unwrap_err(), "unknown command \"frob\"; try: ringway help");
        assert!(of("run again").is_err() && of("-c").is_err() && of("--nope").is_err());
    }
}
