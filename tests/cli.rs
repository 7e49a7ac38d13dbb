//! The command line, on the real binary.

use std::process::{Command, Output};

fn ringway(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringway")).args(args).output().unwrap()
}

fn config(name: &str, text: &str) -> String {
    let path = std::env::temp_dir().join(format!("ringway-cli-{}-{name}.yaml", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn test_says_what_is_wrong_with_file_and_line() {
    let path = config("bad", "apisix:\n  node_listen: 9090\n  router:\n    http: tree\n");
    let out = ringway(&["test", "-c", &path]);
    assert_eq!(out.status.code(), Some(1));
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(text.contains(&format!("{path}:2: http listen port 9090 conflicts with control port")), "{text}");
    assert!(text.contains(&format!("{path}:4: invalid value \"tree\" of apisix.router.http")), "{text}");
}

#[test]
fn test_accepts_and_changes_nothing() {
    let text = "deployment:\n  admin:\n    admin_key: [{name: admin, key: '', role: admin}]\n";
    let path = config("good", text);
    let out = ringway(&["test", "-c", &path]);
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "configuration test is successful\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn wrong_words_are_refused() {
    let out = ringway(&["frobnicate"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8(out.stderr).unwrap().contains("unknown command \"frobnicate\""));
}
