//! Arguments → configuration → boot → wait.

use std::path::Path;
use std::process::ExitCode;

use ringway::config::args::{self, Verb};
use ringway::config::{self, Level, Loaded};

/// Each core allocates from a heap of its own; what few things cross cores are freed where they are dropped.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match args::parse(std::env::args_os().skip(1)) {
        Ok(Verb::Run { config }) => match load(config.as_deref()) {
            Some(mut loaded) => {
                config::admin_key::fill(&mut loaded, &mut || fastrand::u32(..));
                ringway::shard::boot::boot(loaded)
            }
            None => ExitCode::FAILURE,
        },
        Ok(Verb::Test { config }) => match load(config.as_deref()) {
            Some(loaded) => {
                tell(&loaded);
                println!("configuration test is successful");
                ExitCode::SUCCESS
            }
            None => ExitCode::FAILURE,
        },
        Ok(Verb::Version) => {
            println!("ringway {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(Verb::Help) => {
            print!("{}", args::HELP);
            ExitCode::SUCCESS
        }
        Err(line) => {
            eprintln!("ringway: {line}");
            ExitCode::FAILURE
        }
    }
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
}
