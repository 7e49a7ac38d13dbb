//! The rules of the house that a compiler does not know.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file of `src/`, at most. A file is one idea.
const LONGEST: usize = 800;

/// Every file below `dir` whose name ends in one of `ends`, build results left out.
fn files(dir: &str, ends: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::from(dir)];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if !matches!(name, "target" | ".git" | ".venv" | "__pycache__" | "data" | "logs") {
                    dirs.push(path);
                }
            } else if ends.is_empty() || ends.iter().any(|end| name.ends_with(end)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of a source file that are code, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    lines.filter(|(_, line)| !line.starts_with("//"))
}

/// The words that follow `crate::` in a line; `crate::{a, b::C}` has two.
fn crate_paths(line: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find("crate::") {
        let own = !rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        rest = &rest[at + "crate::".len()..];
        if !own {
            continue;
        }
        match rest.strip_prefix('{') {
            None => found.push(word(rest)),
            Some(list) => {
                let mut depth = 0;
                let mut start = true;
                for (at, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            found.push(word(&list[at..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

/// Fails with all that was found, not only the first.
fn none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn a_room_imports_only_rooms_above_it() {
    let lib = read("src/lib.rs");
    let rooms: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(rooms.len() > 10, "src/lib.rs declares the rooms, one `pub mod` a line");
    let mut found = Vec::new();
    for path in files("src", &[".rs"]) {
        let inside = path.strip_prefix("src").unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let Some(own) = rooms.iter().position(|room| *room == first.trim_end_matches(".rs")) else {
            assert!(matches!(first, "lib.rs" | "main.rs"), "{} is in no room of src/lib.rs", path.display());
            continue;
        };
        let text = read(&path);
        for (number, line) in code(&text) {
            for room in crate_paths(line) {
                if rooms.iter().position(|known| *known == room).is_none_or(|used| used > own) {
                    found.push(format!("{}:{number}: {} uses {room}", path.display(), rooms[own]));
                }
            }
        }
    }
    none(found, "a room uses only rooms above it in src/lib.rs");
}

#[test]
fn crate_paths_are_found() {
    assert_eq!(crate_paths("use crate::wire::http;"), ["wire"]);
    assert_eq!(crate_paths("let x = crate::limits::A + crate::model::B;"), ["limits", "model"]);
    assert_eq!(crate_paths("use crate::{limits, wire::{a, b}, model as m};"), ["limits", "wire", "model"]);
    assert!(crate_paths("other_crate::x").is_empty());
}

#[test]
fn unsafe_stays_in_the_reactor() {
    let mut found = Vec::new();
    for path in files("src", &[".rs"]).into_iter().chain(files("tests", &[".rs"])) {
        if path.starts_with("src/reactor") || path.ends_with("tidy.rs") {
            continue;
        }
        let text = read(&path);
        for (number, line) in code(&text) {
            let blocks = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "allow(unsafe_code)"];
            if blocks.iter().any(|block| line.contains(block)) {
                found.push(format!("{}:{number}: {line}", path.display()));
            }
        }
    }
    none(found, "no `unsafe` outside src/reactor");
}

#[test]
fn each_unsafe_block_has_its_proof() {
    let mut found = Vec::new();
    for path in files("src/reactor", &[".rs"]) {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate() {
            let opens = line.contains("unsafe {") || line.contains("unsafe impl");
            if line.starts_with("//") || !opens {
                continue;
            }
            let before = lines[..at].iter().rev();
            // the proof may stand over a group of lines that belong together
            let proven = before.take(8).any(|line| line.contains("SAFETY:")) || line.contains("SAFETY:");
            if !proven {
                found.push(format!("{}:{}: {line}", path.display(), at + 1));
            }
        }
    }
    none(found, "each `unsafe` block says `// SAFETY:` why it is sound");
}

#[test]
fn a_file_is_one_idea() {
    let sources = files("src", &[".rs"]);
    let long = sources.iter().map(|path| (path, read(path).lines().count()));
    let found = long.filter(|(_, lines)| *lines > LONGEST);
    none(
        found.map(|(path, lines)| format!("{}: {lines} lines", path.display())).collect(),
        "no file of src/ is longer than 800 lines",
    );
}

#[test]
fn nothing_is_left_for_later() {
    let marks = ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "TODO", "XXX"];
    let mut found = Vec::new();
    for dir in ["src", "tests", "bench", "proto"] {
        for path in files(dir, &[".rs", ".py", "run"]) {
            if path.ends_with("tidy.rs") {
                continue;
            }
            for (at, line) in read(&path).lines().enumerate() {
                if marks.iter().any(|mark| line.contains(mark)) {
                    found.push(format!("{}:{}: {}", path.display(), at + 1, line.trim()));
                }
            }
        }
    }
    none(found, "no markers of unfinished work");
}

#[test]
fn the_repository_speaks_of_no_machine() {
    let words =
        [concat!("/wo", "rk/"), concat!("/ro", "ot/"), "crates.io", "github.com/rust-lang", "static.rust"];
    let mut found = Vec::new();
    for dir in ["src", "tests", "bench", "conf", "proto", "docs", "perf", ".ci", ".cargo"] {
        for path in files(dir, &[".rs", ".py", ".md", ".yaml", ".toml", ".conf", ".cfg", "run", ".json"]) {
            if path.ends_with("tidy.rs") {
                continue;
            }
            for (at, line) in read(&path).lines().enumerate() {
                if words.iter().any(|word| line.contains(word)) {
                    found.push(format!("{}:{}: {}", path.display(), at + 1, line.trim()));
                }
            }
        }
    }
    none(found, "no paths of one machine, no package registries");
}

#[test]
fn each_dependency_says_what_for() {
    let manifest = read("Cargo.toml");
    let mut section = "";
    let mut needed = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if matches!(section, "[dependencies]" | "[dev-dependencies]")
            && let Some((name, _)) = line.split_once('=')
        {
            needed.insert(name.trim().to_string());
        }
    }
    let page = read("src/README.md");
    let (_, table) =
        page.split_once("## Dependencies").expect("src/README.md has a section `## Dependencies`");
    let table = table.split("\n## ").next().unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let mut told = BTreeSet::new();
    for (name, why) in rows {
        assert!(why.trim_end_matches(['|', ' ']).len() > 5, "src/README.md: what is {name} for?");
        told.insert(name.to_string());
    }
    let missing: Vec<_> = needed.difference(&told).collect();
    let stale: Vec<_> = told.difference(&needed).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "src/README.md misses {missing:?}, has too much {stale:?}"
    );
}

/// All files of `limits`, one behind the other.
fn limits() -> String {
    let limits: String = files("src/limits", &[".rs"]).iter().map(read).collect();
    assert!(limits.matches("\npub const ").count() > 200, "where are the limits?");
    limits
}

#[test]
fn each_limit_is_used() {
    let limits = limits();
    let names = limits.lines().filter_map(|line| line.strip_prefix("pub const ")?.split_once(':'));
    let sources: Vec<String> =
        files("src", &[".rs"]).iter().filter(|p| !p.starts_with("src/limits")).map(read).collect();
    let used = |name: &str| {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        sources.iter().any(|text| {
            text.match_indices(name).any(|(at, _)| {
                !text[..at].ends_with(is_word) && !text[at + name.len()..].starts_with(is_word)
            })
        })
    };
    let unused = names.map(|(name, _)| name).filter(|name| !used(name));
    none(unused.map(String::from).collect(), "a limit that nothing keeps");
}

/// Each says which test reaches it, `/// Reached by: FILE TEST.`, or why none does: `/// Not reached by a test: …`.
#[test]
fn each_limit_has_a_test_that_reaches_it() {
    let limits = limits();
    let mut found = Vec::new();
    let mut why: Option<&str> = None;
    for line in limits.lines() {
        if let Some(comment) = line.strip_prefix("/// ") {
            let says = comment.starts_with("Reached by: ") || comment.starts_with("Not reached by a test: ");
            why = if says { Some(comment) } else { why };
        }
        let Some((name, _)) = line.strip_prefix("pub const ").and_then(|rest| rest.split_once(':')) else {
            continue;
        };
        match why.take().map(|why| why.strip_prefix("Reached by: ").ok_or(why)) {
            None => found.push(format!("{name} says nothing")),
            Some(Ok(place)) => {
                let words = place.split_once(' ').unwrap_or((place, ""));
                let (file, test) = (words.0, words.1.split([',', '.']).next().unwrap_or_default());
                let is_there = Path::new(file).is_file() && read(file).contains(&format!("fn {test}("));
                if !is_there {
                    found.push(format!("{name}: no test {test} in {file}"));
                }
            }
            Some(Err(reason)) if reason.len() < "Not reached by a test: ".len() + 10 => {
                found.push(format!("{name} gives no reason"));
            }
            Some(Err(_)) => {}
        }
    }
    none(found, "each limit names the test that reaches it, or says why there is none");
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut found = Vec::new();
    for path in files(".", &[".md"]) {
        let text = read(&path);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            let is_page = !target.is_empty() && !target.contains("://");
            if is_page && !path.parent().unwrap().join(target).exists() {
                found.push(format!("{}: {link}", path.display()));
            }
        }
    }
    none(found, "a link in a page leads to a file");
}

/// Does a line of `text` name this option: in full, or shortened behind its section or a neighbour of it?
fn line_of<'a>(text: &'a str, path: &str) -> Option<&'a str> {
    let path = path.replace("[]", "");
    let (section, last) = path.rsplit_once('.').unwrap_or(("", &path));
    text.lines().find(|line| {
        let has = |word: &str| line.contains(&format!("`{word}`"));
        let neighbour = line.contains(&format!("`{section}."));
        has(&path) || (neighbour && has(&format!(".{last}"))) || (has(section) && has(last))
    })
}

/// What takes effect, what does not yet and what never will are three parts of the page, and each option stands in
/// the one that the code says.
#[test]
fn the_reference_has_each_option_where_it_belongs() {
    let page = read("docs/reference/config.md");
    let (here, rest) = page.split_once("These belong to parts that").unwrap();
    let (later, inert) = rest.split_once("## Accepted, without a meaning here").unwrap();
    let options = read("src/config/options.rs");
    let known: Vec<(&str, &str)> = options
        .lines()
        .filter_map(|line| line.trim().strip_prefix("known(\"")?.split_once("\", "))
        .map(|(path, rest)| (path, rest.split(", ").nth(1).unwrap().split(')').next().unwrap()))
        .collect();
    assert!(known.len() > 100, "src/config/options.rs has one `known(…)` a line");
    let is_section = |path: &str| {
        let inner = |other: &str| other.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '[']));
        known.iter().any(|(other, _)| inner(other))
    };
    let mut found = Vec::new();
    for (path, used) in known.iter().filter(|(path, used)| *used != "Here" || !is_section(path)) {
        let part = match *used {
            "Here" => here,
            "Later" => later,
            _ => inert,
        };
        if line_of(part, path).is_none() {
            found.push(format!("{path} ({used})"));
        }
    }
    none(found, "docs/reference/config.md has each option of src/config/options.rs in its part");
}

/// Paths and values of a YAML file in block style; lists and maps on one line are left out.
fn scalars(yaml: &str) -> Vec<(String, String)> {
    let mut parents: Vec<(usize, String)> = Vec::new();
    let mut found = Vec::new();
    let mut text_below = usize::MAX;
    for line in yaml.lines().filter(|line| !line.trim_start().starts_with(['#', '-'])) {
        let depth = line.len() - line.trim_start().len();
        let Some((key, value)) = line.split_once(':').filter(|_| depth <= text_below) else { continue };
        text_below = if value.trim().starts_with('>') { depth } else { usize::MAX };
        parents.retain(|(other, _)| *other < depth);
        parents.push((depth, key.trim().to_string()));
        let value = value.trim().trim_matches('"');
        if !value.is_empty() && !value.starts_with(['[', '{', '>']) {
            let path: Vec<&str> = parents.iter().map(|(_, key)| &**key).collect();
            found.push((path.join("."), value.to_string()));
        }
    }
    found
}

#[test]
fn the_reference_tells_the_defaults() {
    let page = read("docs/reference/config.md");
    let defaults = scalars(&read("src/config/defaults.yaml"));
    assert!(defaults.len() > 50, "src/config/defaults.yaml is in block style");
    let wrong = defaults.iter().filter(|(path, value)| {
        line_of(&page, path).is_none_or(|line| !line.contains(&format!("`{value}`")))
    });
    let wrong = wrong.map(|(path, value)| format!("{path}: {value}"));
    none(wrong.collect(), "docs/reference/config.md has each default of src/config/defaults.yaml");
}
