//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `run`, the default: start in the foreground.
    Run,
    /// `start`: in the background.
    Start,
    /// `stop`: end within 10 seconds.
    Stop,
    /// `quit`: end when the requests are answered.
    Quit,
    /// `reload`: read config.yaml again.
    Reload,
    /// `restart`: `test`, `stop`, `start`.
    Restart,
    /// `test`: check the configuration.
    Test,
    /// `version`
    Version,
    /// `help`
    Help,
}

/// A command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Args {
    /// What to do.
    pub verb: Verb,
    /// `-c`, `--config`
    pub config: Option<PathBuf>,
}

/// The text of `help`.
pub const HELP: &str = "\
Usage: ringway [run|start|stop|quit|reload|restart|test|version|help] [-c FILE]

  run       start the gateway in the foreground (the default)
  start     start it in the background
  stop      end it; requests under way get 10 s
  quit      end it when its requests are answered
  reload    read the configuration again, without losing a request
  restart   test, stop, start
  test      check the configuration: says what is wrong, with file and line
  version   print the version
  help      print this

  -c, --config FILE   the configuration; conf/config.yaml if not given
                      (conf/config-<profile>.yaml if APISIX_PROFILE is set)

Signals: QUIT ends when the requests in flight are answered, TERM and INT after 10 s at most,
HUP reads the configuration again, USR1 reopens the logs. The pid is in logs/ringway.pid.
";

/// Reads the arguments (without the program's name). The error is a line for the user.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, String> {
    use lexopt::prelude::*;
    let mut parser = lexopt::Parser::from_args(args);
    let mut verb: Option<String> = None;
    let mut config = None;
    while let Some(arg) = parser.next().map_err(|e| e.to_string())? {
        match arg {
            Short('c') | Long("config") => {
                config = Some(PathBuf::from(parser.value().map_err(|e| e.to_string())?));
            }
            Short('h') | Long("help") => return Ok(Args { verb: Verb::Help, config }),
            Short('v' | 'V') | Long("version") => return Ok(Args { verb: Verb::Version, config }),
            Value(word) if verb.is_none() => verb = Some(word.to_string_lossy().into_owned()),
            other => return Err(other.unexpected().to_string()),
        }
    }
    let verb = match verb.as_deref() {
        None | Some("run") => Verb::Run,
        Some("start") => Verb::Start,
        Some("stop") => Verb::Stop,
        Some("quit") => Verb::Quit,
        Some("reload") => Verb::Reload,
        Some("restart") => Verb::Restart,
        Some("test") => Verb::Test,
        Some("version") => Verb::Version,
        Some("help") => Verb::Help,
        Some(other) => return Err(format!("unknown command \"{other}\"; try: ringway help")),
    };
    Ok(Args { verb, config })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let of = |line: &str| parse(line.split_whitespace().map(OsString::from));
        let is = |verb, config: Option<&str>| Ok(Args { verb, config: config.map(PathBuf::from) });
        assert_eq!(of(""), is(Verb::Run, None));
        assert_eq!(of("run -c a.yaml"), is(Verb::Run, Some("a.yaml")));
        assert_eq!(of("-c a.yaml test"), is(Verb::Test, Some("a.yaml")));
        assert_eq!(of("restart --config=a.yaml"), is(Verb::Restart, Some("a.yaml")));
        assert_eq!(of("version"), is(Verb::Version, None));
        assert_eq!(of("--help"), is(Verb::Help, None));
        assert_eq!(of("frob").unwrap_err(), "unknown command \"frob\"; try: ringway help");
        assert!(of("run again").is_err() && of("-c").is_err() && of("--nope").is_err());
    }
}
