//! Arguments → configuration → boot → wait.

use std::path::Path;
use std::process::ExitCode;

use ringway::config::args::{self, Verb};
use ringway::config::{self, Level, Loaded};
use ringway::verbs;

/// Each core allocates from a heap of its own; what few things cross cores are freed where they are dropped.
#[global_allocator]
static ALLOCATOR: ringway::reactor::Allocator = ringway::reactor::Allocator;

fn main() -> ExitCode {
    let args = match args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(line) => {
            eprintln!("ringway: {line}");
            return ExitCode::FAILURE;
        }
    };
    let config = args.config.as_deref();
    match args.verb {
        Verb::Run => run(config),
        Verb::Start => verbs::start(config),
        Verb::Stop => verbs::stop(config),
        Verb::Quit => verbs::quit(config),
        Verb::Reload => tested(config, verbs::reload),
        Verb::Restart => tested(config, verbs::restart),
        Verb::Test => tested(config, |_| ExitCode::SUCCESS),
        Verb::Version => {
            println!("ringway {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Verb::Help => {
            print!("{}", args::HELP);
            ExitCode::SUCCESS
        }
    }
}

fn run(path: Option<&Path>) -> ExitCode {
    let Some(mut loaded) = load(path) else { return ExitCode::FAILURE };
    config::admin_key::fill(&mut loaded, &mut || fastrand::u32(..));
    ringway::shard::boot::boot(loaded)
}

/// Goes on only with a configuration that could be started.
fn tested(path: Option<&Path>, then: impl FnOnce(Option<&Path>) -> ExitCode) -> ExitCode {
    let Some(loaded) = load(path) else {
        eprintln!("configuration test failed");
        return ExitCode::FAILURE;
    };
    tell(&loaded);
    println!("configuration test is successful");
    then(path)
}

/// The configuration, or all that is wrong with it on standard error.
fn load(path: Option<&Path>) -> Option<Loaded> {
    match config::load(path, &|name| std::env::var(name).ok()) {
        Ok(loaded) => Some(loaded),
        Err(failure) => {
            eprintln!("{failure}");
            None
        }
    }
}

/// Notes for the operator, before there is a log.
fn tell(loaded: &Loaded) {
    for note in &loaded.notes {
        match note.level {
            Level::Info => eprintln!("[notice] {note}"),
            Level::Warn | Level::Error => eprintln!("[warn] {note}"),
        }
    }
    for key in &loaded.empty_keys {
        eprintln!("[warn] the admin key {:?} is empty: the start makes one, and keeps it", key.name);
    }
}
