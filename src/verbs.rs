//! The verbs of the command line that talk to a gateway which runs already, or start one in the background
//! (apisix/cli/ops.lua). They find it by its pid file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::config;
use crate::control::pid_file;
use crate::limits;
use crate::reactor::signals;

/// How often a state that is waited for is looked at.
const TICK: Duration = Duration::from_millis(20);

/// `start`: a gateway in the background. Its banner, or why it has ended at once, is printed.
pub fn start(config: Option<&Path>) -> ExitCode {
    match try_start(config) {
        Ok(code) => code,
        Err(error) => failed(&error.to_string()),
    }
}

fn try_start(config: Option<&Path>) -> io::Result<ExitCode> {
    let pid = pid_path(config)?;
    if pid_file::running(&pid).is_some() {
        println!("the old ringway is still running, the new one will not start");
        return Ok(ExitCode::FAILURE);
    }
    let said = pid.with_extension("out");
    if let Some(directory) = said.parent() {
        fs::create_dir_all(directory)?;
    }
    let output = File::create(&said)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("run");
    if let Some(config) = config {
        command.arg("-c").arg(config);
    }
    // A group of its own: what the terminal tells this one is not for the gateway.
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
    let mut child = command.spawn()?;
    let begun = wait_until_up(&mut child, &said, Duration::from_millis(limits::START_MS))?;
    show(&said);
    Ok(match begun {
        Begun::Up => ExitCode::SUCCESS,
        Begun::Ended(status) => failed(&format!("the gateway has ended: {status}")),
        Begun::NotYet => failed(&format!("the gateway is not up yet, pid {}", child.id())),
    })
}

/// What has become of a gateway that was started.
#[derive(Debug, PartialEq, Eq)]
enum Begun {
    Up,
    Ended(ExitStatus),
    NotYet,
}

/// Waits for the banner among what the gateway has `said`: it comes when every core has its configuration.
fn wait_until_up(child: &mut Child, said: &Path, patience: Duration) -> io::Result<Begun> {
    let until = Instant::now() + patience;
    while !fs::read_to_string(said).is_ok_and(|said| said.contains(" is up\n")) {
        if let Some(status) = child.try_wait()? {
            return Ok(Begun::Ended(status));
        }
        if Instant::now() > until {
            return Ok(Begun::NotYet);
        }
        std::thread::sleep(TICK);
    }
    Ok(Begun::Up)
}

fn show(said: &Path) {
    let _ = io::stdout().write_all(&fs::read(said).unwrap_or_default());
}

/// `stop`: returns when the gateway is gone.
pub fn stop(config: Option<&Path>) -> ExitCode {
    let end = || {
        let pid = signal(config, signals::TERM)?;
        // the gateway itself needs a moment after the last request
        let until = Instant::now() + Duration::from_millis(limits::TERM_MS + 2_000);
        while pid_file::running(&pid).is_some() {
            if Instant::now() > until {
                return Err("the gateway has not ended".to_owned());
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    };
    ended(end())
}

/// `quit`: returns at once, the gateway ends when its requests are answered.
pub fn quit(config: Option<&Path>) -> ExitCode {
    ended(signal(config, signals::QUIT).map(drop))
}

/// `reload`: asks the gateway to read its configuration again. To be called after that has been tested.
pub fn reload(config: Option<&Path>) -> ExitCode {
    ended(signal(config, signals::HUP).map(drop))
}

/// `restart`: to be called after the configuration has been tested. A gateway that does not run is started.
pub fn restart(config: Option<&Path>) -> ExitCode {
    let runs = pid_path(config).is_ok_and(|pid| pid_file::running(&pid).is_some());
    if runs && stop(config) != ExitCode::SUCCESS {
        return ExitCode::FAILURE;
    }
    start(config)
}

fn pid_path(config: Option<&Path>) -> io::Result<PathBuf> {
    config::pid_file(config, &|name| std::env::var(name).ok())
}

/// Signals the gateway of a configuration, and tells its pid file.
fn signal(config: Option<&Path>, signal: i32) -> Result<PathBuf, String> {
    let path = pid_path(config).map_err(|error| error.to_string())?;
    let pid = pid_file::running(&path).ok_or_else(|| format!("no gateway runs ({})", path.display()))?;
    signals::send(pid, signal).map_err(|error| format!("the gateway cannot be reached: {error}"))?;
    Ok(path)
}

fn ended(outcome: Result<(), String>) -> ExitCode {
    outcome.map_or_else(|why| failed(&why), |()| ExitCode::SUCCESS)
}

fn failed(why: &str) -> ExitCode {
    eprintln!("ringway: {why}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_comes_late_is_waited_for_but_not_without_end() {
        let said = std::env::temp_dir().join(format!("ringway-said-{}", std::process::id()));
        fs::write(&said, "waiting for etcd\n").unwrap();
        let mut silent = Command::new("sleep").arg("60").spawn().unwrap();
        let began = Instant::now();
        let begun = wait_until_up(&mut silent, &said, Duration::from_millis(100)).unwrap();
        assert_eq!(begun, Begun::NotYet);
        assert!((100..10_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        silent.kill().unwrap();
        let status = silent.wait().unwrap();
        let patience = Duration::from_secs(60);
        assert_eq!(wait_until_up(&mut silent, &said, patience).unwrap(), Begun::Ended(status));
        fs::write(&said, "ringway is up\n").unwrap();
        assert_eq!(wait_until_up(&mut silent, &said, patience).unwrap(), Begun::Up);
        fs::remove_file(&said).unwrap();
    }
}
