//! What the cores are told of a store's events.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::*;
use crate::control::encryption::Keyring;
use crate::control::plugin_lists::Lists;
use crate::control::store::Entry;
use crate::plugin::Registry;

fn feed(unknown: Unknown, follow: bool) -> Feed {
    let registry = Arc::new(Registry::new(&[]));
    Feed::new(Arc::new(Plugins::new(registry, ["proxy-cache"], Keyring::default(), true)), unknown, follow)
}

fn put(key: &str, value: &str, revision: i64) -> Change {
    let value = Some(Bytes::from(value.to_owned()));
    Change { key: key.into(), value, create_revision: revision, mod_revision: revision }
}

fn delete(key: &str, revision: i64) -> Change {
    Change { key: key.into(), value: None, create_revision: 0, mod_revision: revision }
}

/// The changes as a core would see them: `+kind id`, `-kind id`.
fn told(batch: &Batch) -> Vec<String> {
    let text = |delta: &Delta| match delta {
        Delta::Put(object) => format!("+{} {}", object.place().0.directory(), object.place().1),
        Delta::Delete(kind, id) => format!("-{} {id}", kind.directory()),
        Delta::Plugins(names) => format!("plugins {names:?}"),
        Delta::StreamPlugins(names) => format!("stream plugins {names:?}"),
        Delta::PluginAttr(attr) => format!("plugin_attr {attr}"),
    };
    batch.deltas.iter().map(text).collect()
}

fn changes(feed: &Feed, changes: Vec<Change>) -> Vec<String> {
    told(&feed.take(Event::Changes { changes, revision: 9 }))
}

fn snapshot(feed: &Feed, entries: &[(&str, &str)], revision: i64) -> Vec<String> {
    let entry = |(key, value): &(&str, &str)| Entry {
        key: (*key).into(),
        value: Bytes::from(value.to_string()),
        create_revision: revision,
        mod_revision: revision,
    };
    let entries = entries.iter().map(entry).collect();
    told(&feed.take(Event::Snapshot { entries, revision }))
}

const ROUTE: &str = r#"{"uri":"/a","upstream":{"nodes":{"127.0.0.1:80":1}}}"#;

#[test]
fn objects_come_and_go() {
    let feed = feed(Unknown::Skip, false);
    assert_eq!(changes(&feed, vec![put("/routes/1", ROUTE, 1)]), ["+routes 1"]);
    assert!(feed.model().get(Kind::Route, "1").is_some());
    assert_eq!(changes(&feed, vec![delete("/routes/1", 2), delete("/routes/9", 2)]), ["-routes 1"]);
    assert!(feed.model().get(Kind::Route, "1").is_none());
}

#[test]
fn what_is_wrong_is_left_out_and_the_rest_works() {
    let feed = feed(Unknown::Skip, false);
    let wrong = ["{", "[]", r#"{"uri":1}"#, r#"{"uri":"/a","no_such":1}"#, "init_dir"];
    for value in wrong {
        let batch = vec![put("/routes/1", value, 1), put("/routes/2", ROUTE, 1), delete("/routes/2", 1)];
        assert_eq!(changes(&feed, batch), ["+routes 2", "-routes 2"], "{value}");
    }
    assert_eq!(feed.model().rejected().collect::<Vec<_>>(), ["/routes/1"]);
    // Placeholders and foreign keys are nothing at all.
    let nothing = vec![put("/routes/", "init_dir", 1), put("/gen_id", "1", 1), put("/data_plane/x", "{}", 1)];
    assert!(changes(&feed, nothing).is_empty());
}

#[test]
fn what_was_right_stays_until_it_is_right_again_or_deleted() {
    let feed = feed(Unknown::Skip, false);
    let other = r#"{"uri":"/b","upstream":{"nodes":{"127.0.0.1:80":1}}}"#;
    assert_eq!(changes(&feed, vec![put("/routes/3", ROUTE, 1)]), ["+routes 3"]);
    assert!(changes(&feed, vec![put("/routes/3", "{}", 2)]).is_empty());
    assert!(snapshot(&feed, &[("/routes/3", "[]")], 3).is_empty());
    assert_eq!(feed.model().rejected().collect::<Vec<_>>(), ["/routes/3"]);
    assert!(feed.model().get(Kind::Route, "3").is_some());
    assert_eq!(changes(&feed, vec![put("/routes/3", other, 4)]), ["+routes 3"]);
    assert_eq!(feed.model().rejected().count(), 0);
    assert!(changes(&feed, vec![put("/routes/3", "{}", 5)]).is_empty());
    assert_eq!(changes(&feed, vec![delete("/routes/3", 6)]), ["-routes 3"]);
}

#[test]
fn what_is_wrong_in_a_file_goes() {
    let feed = feed(Unknown::RefuseDisabled, true).of_files();
    assert_eq!(snapshot(&feed, &[("/routes/3", ROUTE)], 1), ["+routes 3"]);
    assert_eq!(snapshot(&feed, &[("/routes/3", "{}")], 2), ["-routes 3"]);
}

#[test]
fn a_snapshot_tells_only_what_differs() {
    let feed = feed(Unknown::Skip, false);
    let other = r#"{"uri":"/b","upstream":{"nodes":{"127.0.0.1:80":1}}}"#;
    assert_eq!(snapshot(&feed, &[("/routes/1", ROUTE), ("/routes/2", ROUTE)], 5), ["+routes 1", "+routes 2"]);
    // The same bytes under other revisions: etcd was restored.
    assert!(snapshot(&feed, &[("/routes/1", ROUTE), ("/routes/2", ROUTE)], 2).is_empty());
    assert_eq!(snapshot(&feed, &[("/routes/1", other)], 3), ["+routes 1", "-routes 2"]);
    assert_eq!(snapshot(&feed, &[], 1), ["-routes 1"]);
}

/// So many that several threads read them: all are told, in the order of their keys, and what is wrong with
/// one is its own affair.
#[test]
fn a_long_snapshot_is_read_whole_and_in_order() {
    let feed = feed(Unknown::Skip, false);
    let keys: Vec<String> = (0..4_000).map(|number| format!("/routes/{number:04}")).collect();
    let value = |at: usize| if at % 1_000 == 7 { "{}" } else { ROUTE };
    let entries: Vec<(&str, &str)> = keys.iter().enumerate().map(|(at, key)| (&**key, value(at))).collect();
    let right = (0..4_000).filter(|at| at % 1_000 != 7);
    let expected: Vec<String> = right.map(|number| format!("+routes {number:04}")).collect();
    assert_eq!(snapshot(&feed, &entries, 1), expected);
    let mut rejected: Vec<String> = feed.model().rejected().map(str::to_owned).collect();
    rejected.sort();
    assert_eq!(rejected, ["/routes/0007", "/routes/1007", "/routes/2007", "/routes/3007"]);
}

#[test]
fn a_thread_begins_where_another_has_enough() {
    let threads = |changes: usize| changes.div_ceil(share_of(4, changes));
    let enough = limits::READ_BY_ONE_THREAD;
    let begun = [1, enough, enough + 1, 2 * enough + 1, 100 * enough].map(threads);
    assert_eq!(begun, [1, 1, 2, 3, 4]);
}

/// A whole load is taken in by slices, between which the control thread looks after its other work.
#[test]
fn a_long_snapshot_leaves_the_thread_to_others_between_its_slices() {
    const OBJECTS: usize = 2 * limits::FEED_SLICE + 1;
    let feed = feed(Unknown::Skip, false);
    let entries = (0..OBJECTS).map(|number| Entry {
        key: format!("/routes/{number:05}").into(),
        value: ROUTE.into(),
        create_revision: 1,
        mod_revision: 1,
    });
    let (events, reader) = tokio::sync::mpsc::channel(1);
    events.try_send(Event::Snapshot { entries: entries.collect(), revision: 1 }).unwrap();
    drop(events);
    let published = Arc::new(AtomicUsize::new(0));
    let counted = published.clone();
    let publish = Box::new(move |batch: Batch| counted.store(batch.deltas.len(), Ordering::Relaxed));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut turns = 0;
    let mut run = Box::pin(feed.run(reader, publish));
    runtime.block_on(std::future::poll_fn(|cx| {
        turns += usize::from(published.load(Ordering::Relaxed) == 0);
        run.as_mut().poll(cx)
    }));
    assert_eq!((published.load(Ordering::Relaxed), turns), (OBJECTS, 4));
}

#[test]
fn credentials_are_consumers_of_their_own() {
    let feed = feed(Unknown::Skip, false);
    let batch = vec![
        put("/consumers/jack", r#"{"username":"jack"}"#, 1),
        put("/consumers/jack/credentials/c", r#"{"plugins":{}}"#, 1),
    ];
    assert_eq!(changes(&feed, batch), ["+consumers jack", "+consumers jack/credentials/c"]);
    let gone = vec![delete("/consumers/jack/credentials/c", 2)];
    assert_eq!(changes(&feed, gone), ["-consumers jack/credentials/c"]);
}

#[test]
fn holders_of_a_key_are_found_without_a_search() {
    let feed = feed(Unknown::Skip, false);
    let with = |key: &str| format!(r#"{{"username":"jack","plugins":{{"key-auth":{{"key":"{key}"}}}}}}"#);
    let holders =
        |key: &str| -> Vec<String> { feed.model().key_holders("key-auth", key).map(str::to_owned).collect() };
    let credential = r#"{"plugins":{"key-auth":{"key":"a"}}}"#;
    changes(&feed, vec![put("/consumers/jack", &with("a"), 1)]);
    changes(&feed, vec![put("/consumers/eve/credentials/c", credential, 2)]);
    assert_eq!(holders("a"), ["eve/credentials/c", "jack"]);
    changes(&feed, vec![put("/consumers/jack", &with("b"), 3)]);
    assert_eq!((holders("a"), holders("b")), (vec!["eve/credentials/c".into()], vec!["jack".into()]));
    changes(&feed, vec![delete("/consumers/jack", 4), put("/consumers/eve/credentials/c", "{}", 4)]);
    assert!(holders("a").is_empty() && holders("b").is_empty());
    changes(&feed, vec![put("/consumers/jack", &with("$env://KEY"), 5)]);
    assert!(holders("$env://KEY").is_empty());
}

#[test]
fn plugins_that_are_missing_or_not_enabled() {
    let with = |plugin: &str| format!(r#"{{"uri":"/a","plugins":{{"{plugin}":{{}}}}}}"#);
    // Enabled but not in this build: loaded, a core answers 503 for it.
    for unknown in [Unknown::Skip, Unknown::RefuseDisabled] {
        let feed = feed(unknown, false);
        assert_eq!(changes(&feed, vec![put("/routes/1", &with("proxy-cache"), 1)]), ["+routes 1"]);
    }
    // Outside the operator's list: skipped from etcd, refused from a file.
    let stranger = put("/routes/1", &with("stranger"), 1);
    assert_eq!(changes(&feed(Unknown::Skip, false), vec![stranger.clone()]), ["+routes 1"]);
    assert!(changes(&feed(Unknown::RefuseDisabled, false), vec![stranger]).is_empty());
    // The same of a stream route, which else would open without the plugin that guards it.
    let stranger = put("/stream_routes/1", r#"{"server_port":9100,"plugins":{"stranger":{}}}"#, 1);
    assert_eq!(changes(&feed(Unknown::Skip, false), vec![stranger.clone()]), ["+stream_routes 1"]);
    assert!(changes(&feed(Unknown::RefuseDisabled, false), vec![stranger.clone()]).is_empty());
    let enabled = feed(Unknown::RefuseDisabled, false);
    enabled.plugins.enable_stream(&["stranger".to_owned()]);
    assert_eq!(changes(&enabled, vec![stranger]), ["+stream_routes 1"]);
}

#[test]
fn the_plugin_list_counts_where_it_is_followed() {
    let list = r#"[{"name":"key-auth"},{"name":"mqtt-proxy","stream":true}]"#;
    assert!(changes(&feed(Unknown::Skip, false), vec![put("/plugins", list, 1)]).is_empty());
    let feed = feed(Unknown::Skip, true);
    assert_eq!(
        changes(&feed, vec![put("/plugins", list, 1)]),
        [r#"plugins ["key-auth"]"#, r#"stream plugins ["mqtt-proxy"]"#]
    );
    assert!(feed.plugins.enabled("key-auth") && !feed.plugins.enabled("proxy-cache"));
    // A list that is wrong changes nothing.
    let wrong = r#"[{"name":"xxx","stream":"yes"}]"#;
    assert!(changes(&feed, vec![put("/plugins", wrong, 2)]).is_empty());
    assert!(feed.plugins.enabled("key-auth"));
}

const GUARDED: &str = r#"{"uri":"/a","plugins":{"proxy-cache":{}}}"#;

/// A route must not be served without its plugin, nor be kept out when its plugin has come.
#[test]
fn a_new_list_in_a_file_judges_all_its_objects() {
    let feed = feed(Unknown::RefuseDisabled, true).of_files();
    let list = |names: &str, revision| changes(&feed, vec![put("/plugins", names, revision)]);
    let stranger = r#"{"uri":"/b","plugins":{"stranger":{}}}"#;
    let routes = [("/routes/1", GUARDED), ("/routes/2", stranger), ("/routes/3", ROUTE)];
    assert_eq!(snapshot(&feed, &routes, 1), ["+routes 1", "+routes 3"]);
    let told = list(r#"[{"name":"stranger"}]"#, 2);
    assert_eq!(told[2..], ["-routes 1", "+routes 2", "+routes 3"]);
    assert_eq!(feed.model().rejected().collect::<Vec<_>>(), ["/routes/1"]);
    let told = list(r#"[{"name":"proxy-cache"}]"#, 3);
    assert_eq!(told[2..], ["+routes 1", "-routes 2", "+routes 3"]);
    // what the same document says of an object is what counts
    let both = vec![delete("/routes/1", 4), put("/plugins", "[]", 4), put("/routes/2", ROUTE, 4)];
    assert_eq!(changes(&feed, both)[2..], ["+routes 3", "-routes 1", "+routes 2"]);
    assert_eq!(list(r#"[{"name":"proxy-cache"}]"#, 5)[2..], ["+routes 2", "+routes 3"]);
}

#[test]
fn a_list_in_config_yaml_judges_the_objects_of_a_file() {
    let lists = |names: &[&str]| Lists {
        http: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Lists::default()
    };
    let feed = feed(Unknown::RefuseDisabled, true).of_files();
    assert_eq!(snapshot(&feed, &[("/routes/1", GUARDED)], 1), ["+routes 1"]);
    assert!(!feed.list_is_of_store());
    feed.enable_plugins(&lists(&[]));
    assert_eq!(told(&feed.take_list())[3..], ["-routes 1"]);
    feed.enable_plugins(&lists(&["proxy-cache"]));
    assert_eq!(told(&feed.take_list())[3..], ["+routes 1"]);
    changes(&feed, vec![put("/plugins", "[]", 2)]);
    assert!(feed.list_is_of_store());
}

#[test]
fn the_plugin_list_is_taken_first() {
    let feed = feed(Unknown::RefuseDisabled, true);
    let route = r#"{"uri":"/a","plugins":{"proxy-cache":{}}}"#;
    assert_eq!(
        snapshot(
            &feed,
            &[
                ("/global_rules/1", r#"{"plugins":{"proxy-cache":{}}}"#),
                ("/plugins", "[]"),
                ("/routes/1", route)
            ],
            1
        ),
        ["plugins []", "stream plugins []"]
    );
}

const A: &str = "$secret://vault/1/a";
const B: &str = "$secret://vault/1/b";

/// A manager has answered: what the cores are told.
fn answered(feed: &Feed, reference: &str, secret: &str) -> Vec<String> {
    feed.take_again(feed.secrets().answered(reference, secret));
    told(&feed.take_outdated())
}

fn route_with(uri: &str, secret: &str) -> String {
    format!(
        r#"{{"uri":{uri},"plugins":{{"p":{{"key":"{secret}"}}}},"upstream":{{"nodes":{{"127.0.0.1:80":1}}}}}}"#
    )
}

/// The key that route 1 has on the cores.
fn key_in_use(feed: &Feed) -> String {
    let model = feed.model();
    let Some(Object::Route(route)) = model.get(Kind::Route, "1") else { return String::new() };
    format!("{:?}", route.value.plugins)
}

#[test]
fn behind_a_wrong_version_the_one_in_use_follows_its_secrets() {
    let feed = feed(Unknown::Skip, false);
    assert_eq!(changes(&feed, vec![put("/routes/1", &route_with("\"/a\"", A), 1)]), ["+routes 1"]);
    assert_eq!(answered(&feed, A, "first"), ["+routes 1"]);
    for wrong in [route_with("1", "plain"), route_with("1", B), "{".to_owned()] {
        assert!(changes(&feed, vec![put("/routes/1", &wrong, 2)]).is_empty());
        assert_eq!(answered(&feed, A, &format!("behind {wrong}")), ["+routes 1"]);
        assert!(
            key_in_use(&feed).contains(&format!("{:?}", format!("behind {wrong}"))),
            "{}",
            key_in_use(&feed)
        );
        assert_eq!(feed.model().rejected().collect::<Vec<_>>(), ["/routes/1"], "the newest is still wrong");
    }
    assert!(answered(&feed, B, "of a version that is gone").is_empty());
    assert_eq!(changes(&feed, vec![put("/routes/1", &route_with("\"/a\"", B), 3)]), ["+routes 1"]);
    assert!(answered(&feed, A, "of the old version").is_empty());
    assert_eq!(answered(&feed, B, "of the new one"), ["+routes 1"]);
    assert_eq!(changes(&feed, vec![delete("/routes/1", 4)]), ["-routes 1"]);
    assert!(answered(&feed, B, "of a deleted one").is_empty());
}

fn ssl_with(key: &str) -> String {
    format!(r#"{{"sni":"a.test","cert":"{}","key":"{key}"}}"#, "c".repeat(128))
}

#[test]
fn a_secret_that_makes_the_newest_version_right_puts_it_in_use() {
    let feed = feed(Unknown::Skip, false);
    let right = |letter: &str| letter.repeat(128);
    assert_eq!(changes(&feed, vec![put("/ssls/1", &ssl_with(A), 1)]), ["+ssls 1"]);
    assert_eq!(answered(&feed, A, &right("a")), ["+ssls 1"]);
    assert!(answered(&feed, A, "short").is_empty(), "the version in use keeps what was right");
    assert_eq!(answered(&feed, A, &right("b")), ["+ssls 1"]);
    // Another object has had the wrong secret of the newest version asked for before.
    assert_eq!(changes(&feed, vec![put("/ssls/2", &ssl_with(B), 2)]), ["+ssls 2"]);
    assert!(answered(&feed, B, "short").is_empty());
    assert!(changes(&feed, vec![put("/ssls/1", &ssl_with(B), 3)]).is_empty());
    assert_eq!(answered(&feed, A, &right("c")), ["+ssls 1"], "the old version follows");
    assert_eq!(answered(&feed, B, &right("d")), ["+ssls 1", "+ssls 2"], "the newest takes over");
    assert_eq!(feed.model().rejected().count(), 0);
    assert!(answered(&feed, A, &right("e")).is_empty(), "nobody has the old reference");
}

#[test]
fn in_a_file_a_wrong_version_leaves_nothing_that_follows_secrets() {
    let feed = feed(Unknown::Skip, true).of_files();
    let (old, wrong) = (route_with("\"/a\"", A), ssl_with(B));
    assert_eq!(snapshot(&feed, &[("/routes/1", &old), ("/ssls/2", &wrong)], 1), ["+routes 1", "+ssls 2"]);
    assert_eq!(answered(&feed, B, "short"), ["-ssls 2"]);
    let wrong_route = route_with("1", "plain");
    assert_eq!(snapshot(&feed, &[("/routes/1", &wrong_route), ("/ssls/2", &wrong)], 2), ["-routes 1"]);
    assert!(answered(&feed, A, "news").is_empty());
    assert_eq!(answered(&feed, B, &"b".repeat(128)), ["+ssls 2"]);
}

#[test]
fn a_wrong_version_of_a_secret_manager_leaves_the_last_in_use() {
    let feed = feed(Unknown::Skip, false);
    let manager = r#"{"uri":"http://127.0.0.1:1","prefix":"kv","token":"t"}"#;
    changes(&feed, vec![put("/secrets/vault/1", manager, 1)]);
    assert!(feed.secrets().describes("vault/1"));
    changes(&feed, vec![put("/secrets/vault/1", r#"{"uri":1}"#, 2)]);
    assert!(feed.secrets().describes("vault/1"));
    assert_eq!(feed.model().rejected().collect::<Vec<_>>(), ["/secrets/vault/1"]);
    changes(&feed, vec![delete("/secrets/vault/1", 3)]);
    assert!(!feed.secrets().describes("vault/1"));
}

#[test]
fn in_a_file_a_wrong_version_of_a_secret_manager_is_none() {
    let feed = self::feed(Unknown::Skip, true).of_files();
    snapshot(&feed, &[("/secrets/vault/1", r#"{"uri":"http://127.0.0.1:1","prefix":"kv","token":"t"}"#)], 1);
    assert!(feed.secrets().describes("vault/1"));
    snapshot(&feed, &[("/secrets/vault/1", r#"{"uri":1}"#)], 2);
    assert!(!feed.secrets().describes("vault/1"));
}
