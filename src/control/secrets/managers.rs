//! What `$secret://` references stand for: which objects have them, what their managers answered, and when they are
//! asked again (apisix/secret.lua: 300 s after an answer, 60 s after a failure; `apisix.lru.secret` of config.yaml).
//!
//! The feed asks here at once and never waits: a reference that nobody knows yet stays as it is. [`Managers::follow`]
//! asks the managers and names the objects that an answer changes; they are taken in again. An answer that was had is
//! kept while its manager cannot be reached.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{SECRET, aws, gcp, strip, vault};
use crate::limits;

/// How long an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// A secret, ms.
    pub value_ms: u64,
    /// A failure, ms.
    pub failure_ms: u64,
}

/// How managers are spoken to over TLS.
#[derive(Clone)]
pub struct Tls {
    /// They show a certificate that is trusted.
    pub verified: Arc<ClientConfig>,
    /// They show any (`ssl_verify: false`).
    pub unverified: Arc<ClientConfig>,
}

/// All managers and references of this process.
#[derive(Default)]
pub struct Managers {
    state: Mutex<State>,
    tokens: Arc<gcp::Tokens>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// The objects of `/secrets`, by `vault/1`.
    managers: HashMap<Box<str>, Value>,
    references: HashMap<Box<str>, Reference>,
    /// The references of each object, by its key in the store.
    held: HashMap<Box<str>, Vec<Box<str>>>,
    /// Counts what was written of managers.
    writes: u64,
}

struct Reference {
    /// Of the last answer that counts; none while the first is awaited.
    outcome: Option<Result<Value, String>>,
    /// When it is asked again.
    due: Instant,
    /// It comes from a manager that has been written anew: a failure counts.
    outdated: bool,
    /// Which write of its manager that was: an answer to a question from before it is worth nothing.
    written: u64,
    /// Keys of the objects that have it.
    holders: BTreeSet<Box<str>>,
}

impl Managers {
    /// What is known of a reference.
    pub fn look_up(&self, reference: &str) -> Option<Result<Value, String>> {
        self.state().references.get(reference)?.outcome.clone()
    }

    /// An object has these references, and no others.
    pub fn hold(&self, key: &str, references: Vec<Box<str>>) {
        let mut state = self.state();
        if references.is_empty() && !state.held.contains_key(key) {
            return;
        }
        for gone in state.held.remove(key).unwrap_or_default() {
            let left = state.references.get_mut(&gone).map(|reference| {
                reference.holders.remove(key);
                reference.holders.len()
            });
            if left == Some(0) && !references.contains(&gone) {
                state.references.remove(&gone);
            }
        }
        for reference in &references {
            let holders =
                &mut state.references.entry(reference.clone()).or_insert_with(Reference::new).holders;
            holders.insert(key.into());
        }
        if !references.is_empty() {
            state.held.insert(key.into(), references);
            self.wake.notify_one();
        }
    }

    /// The object of a manager was written, or is gone: what came from it is asked again.
    pub fn configure(&self, id: &str, conf: Option<Value>) {
        let mut state = self.state();
        match conf {
            Some(conf) => state.managers.insert(id.into(), conf),
            None => state.managers.remove(id),
        };
        state.writes += 1;
        let writes = state.writes;
        for (text, reference) in &mut state.references {
            if parse(text).is_ok_and(|(manager, _)| manager == id) {
                (reference.due, reference.outdated, reference.written) = (Instant::now(), true, writes);
            }
        }
        self.wake.notify_one();
    }

    /// Asks the managers whatever is due, for as long as the gateway runs. `changed` is told the keys of the
    /// objects whose references have a new meaning.
    pub async fn follow(&self, lifetimes: Lifetimes, tls: Tls, mut changed: impl FnMut(BTreeSet<Box<str>>)) {
        let mut calls = JoinSet::new();
        loop {
            let (due, next, asked) = self.due(limits::SECRET_CALLS - calls.len(), lifetimes);
            for (reference, ask) in due {
                let (tls, tokens) = (tls.clone(), self.tokens.clone());
                calls.spawn(async move {
                    let answer = match ask {
                        Ok(question) => question.answer(&tls, &tokens).await,
                        Err(why) => Err(why),
                    };
                    (reference, answer, asked)
                });
            }
            let has_room = calls.len() < limits::SECRET_CALLS;
            tokio::select! {
                Some(mut answered) = calls.join_next() => {
                    let mut keys = BTreeSet::new();
                    loop {
                        if let Ok((reference, answer, asked)) = answered {
                            keys.extend(self.settle(&reference, answer, asked, lifetimes));
                        }
                        let Some(another) = calls.try_join_next() else { break };
                        answered = another;
                    }
                    if !keys.is_empty() {
                        changed(keys);
                    }
                }
                () = self.wake.notified(), if has_room => {}
                () = tokio::time::sleep_until(next), if has_room => {}
            }
        }
    }

    /// What is to be asked now, at most `room`, first whoever has waited longest. Of each, its manager's object and the
    /// key there, or why nobody can be asked. And when to look again, and how often managers have been written. Who is
    /// asked is not due until he would be after an answer.
    fn due(&self, room: usize, lifetimes: Lifetimes) -> (Vec<Due>, Instant, u64) {
        let mut guard = self.state();
        let state = &mut *guard;
        let now = Instant::now();
        let due = state.references.iter().filter(|(_, reference)| reference.due <= now);
        let mut due: Vec<_> = due.map(|(text, reference)| (reference.due, text.clone())).collect();
        due.sort_unstable();
        due.truncate(room);
        let again = now + Duration::from_millis(lifetimes.value_ms.max(10 * limits::SECRET_PATIENCE_MS));
        for (_, text) in &due {
            if let Some(reference) = state.references.get_mut(text) {
                reference.due = again;
            }
        }
        let next = state.references.values().map(|reference| reference.due).min();
        let due = due.into_iter().map(|(_, text)| (text.clone(), state.ask(&text))).collect();
        (due, next.unwrap_or(now + Duration::from_secs(3600)), state.writes)
    }

    /// Takes in the answer to a question from when managers had been written `asked` times. Gives the objects for
    /// which it is news.
    fn settle(
        &self,
        text: &str,
        answer: Result<Value, String>,
        asked: u64,
        lifetimes: Lifetimes,
    ) -> BTreeSet<Box<str>> {
        let mut state = self.state();
        let reference = state.references.get_mut(text).filter(|reference| reference.written <= asked);
        let Some(reference) = reference else { return BTreeSet::new() };
        let ms = if answer.is_ok() { lifetimes.value_ms } else { lifetimes.failure_ms };
        reference.due = Instant::now() + Duration::from_millis(ms.max(1));
        if let Err(why) = &answer {
            log::error!("failed to resolve secret reference: {text}, err: {why}");
        }
        let had_value = matches!(reference.outcome, Some(Ok(_)));
        let counts = answer.is_ok() || !had_value || reference.outdated;
        let is_news = counts && (answer.is_ok() || had_value) && reference.outcome.as_ref() != Some(&answer);
        if counts {
            (reference.outcome, reference.outdated) = (Some(answer), false);
        }
        if is_news { reference.holders.clone() } else { BTreeSet::new() }
    }

    /// A manager has answered. Gives the objects for which it is news.
    #[cfg(test)]
    pub fn answered(&self, reference: &str, secret: &str) -> BTreeSet<Box<str>> {
        let lifetimes = Lifetimes { value_ms: 300_000, failure_ms: 60_000 };
        self.settle(reference, Ok(Value::String(secret.to_owned())), u64::MAX, lifetimes)
    }

    /// Whether there is such a manager.
    #[cfg(test)]
    pub fn describes(&self, id: &str) -> bool {
        self.state().managers.contains_key(id)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a manager is asked.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    kind: Kind,
    /// The manager's object.
    conf: Value,
    key: String,
}

/// The managers that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Vault,
    Aws,
    Gcp,
}

/// What is asked, or why nobody can be.
type Ask = Result<Question, String>;

impl Question {
    async fn answer(&self, tls: &Tls, tokens: &gcp::Tokens) -> Result<Value, String> {
        let Question { kind, conf, key } = self;
        let patience = Duration::from_millis(limits::SECRET_PATIENCE_MS);
        let late = |_| Err("timeout".to_owned());
        match kind {
            // it has a limit of its own
            Kind::Vault => vault::get(conf, key, &tls.verified).await,
            Kind::Aws => {
                tokio::time::timeout(patience, aws::get(conf, key, &tls.verified)).await.unwrap_or_else(late)
            }
            Kind::Gcp => {
                let tls = if conf["ssl_verify"] == false { &tls.unverified } else { &tls.verified };
                tokio::time::timeout(patience, gcp::get(conf, key, tls, tokens)).await.unwrap_or_else(late)
            }
        }
    }
}

/// A reference whose manager is to be asked.
type Due = (Box<str>, Ask);

impl State {
    fn ask(&self, text: &str) -> Ask {
        let (manager, key) = parse(text)?;
        let conf = self.managers.get(manager);
        let conf = conf.ok_or_else(|| format!("no secret conf, secret_uri: {text}"))?;
        let kind = match manager.split('/').next() {
            Some("vault") => Kind::Vault,
            Some("aws") => Kind::Aws,
            Some("gcp") => Kind::Gcp,
            other => return Err(format!("no secret manager: {}", other.unwrap_or_default())),
        };
        Ok(Question { kind, conf: conf.clone(), key: key.to_owned() })
    }
}

impl Reference {
    fn new() -> Reference {
        Reference {
            outcome: None,
            due: Instant::now(),
            outdated: false,
            written: 0,
            holders: BTreeSet::new(),
        }
    }
}

/// `vault/1` and the key of `$secret://vault/1/KEY`.
fn parse(reference: &str) -> Result<(&str, &str), String> {
    let path = strip(reference, SECRET).unwrap_or_default();
    let (manager, rest) = path.split_once('/').ok_or("error format: no secret manager")?;
    let (id, key) = rest.split_once('/').ok_or("error format: no secret conf id")?;
    if key.is_empty() {
        return Err("error format: no secret key id".into());
    }
    Ok((&path[..manager.len() + 1 + id.len()], key))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const A: &str = "$secret://vault/1/apps/a/key";
    const LIFETIMES: Lifetimes = Lifetimes { value_ms: 300_000, failure_ms: 60_000 };

    fn keys(keys: BTreeSet<Box<str>>) -> Vec<String> {
        keys.into_iter().map(String::from).collect()
    }

    #[test]
    fn forms() {
        assert_eq!(parse(A), Ok(("vault/1", "apps/a/key")));
        for (text, why) in [
            ("$secret://vault", "error format: no secret manager"),
            ("$secret://vault/1", "error format: no secret conf id"),
            ("$secret://vault/1/", "error format: no secret key id"),
        ] {
            assert_eq!(parse(text), Err(why.into()));
        }
    }

    #[test]
    fn an_answer_reaches_all_objects_that_have_the_reference() {
        let managers = Managers::default();
        managers.hold("/routes/1", vec![A.into()]);
        managers.hold("/consumers/jack", vec![A.into()]);
        assert_eq!(managers.look_up(A), None);
        assert_eq!(keys(managers.settle(A, Ok(json!("x")), 0, LIFETIMES)), ["/consumers/jack", "/routes/1"]);
        assert_eq!(managers.look_up(A), Some(Ok(json!("x"))));
        assert!(managers.settle(A, Ok(json!("x")), 0, LIFETIMES).is_empty(), "no news");
        managers.hold("/routes/1", vec![]);
        assert_eq!(keys(managers.settle(A, Ok(json!("y")), 0, LIFETIMES)), ["/consumers/jack"]);
        managers.hold("/consumers/jack", vec![]);
        assert_eq!(managers.look_up(A), None, "nobody has it any more");
    }

    #[test]
    fn a_manager_that_is_down_costs_nothing_that_was_known() {
        let managers = Managers::default();
        managers.hold("/routes/1", vec![A.into()]);
        assert!(managers.settle(A, Err("down".into()), 0, LIFETIMES).is_empty(), "nothing was known");
        assert_eq!(managers.look_up(A), Some(Err("down".into())));
        managers.settle(A, Ok(json!("x")), 0, LIFETIMES);
        assert!(managers.settle(A, Err("down".into()), 0, LIFETIMES).is_empty());
        assert_eq!(managers.look_up(A), Some(Ok(json!("x"))));
        // Unless the operator has pointed it elsewhere: what the old place said is worth nothing then.
        managers.configure("vault/1", None);
        assert!(managers.settle(A, Ok(json!("late")), 0, LIFETIMES).is_empty(), "it was asked before");
        assert_eq!(keys(managers.settle(A, Err("no".into()), 1, LIFETIMES)), ["/routes/1"]);
        assert_eq!(managers.look_up(A), Some(Err("no".into())));
    }

    #[test]
    fn what_is_due() {
        let managers = Managers::default();
        managers.hold("/routes/1", vec![A.into(), "$secret://none/1/a".into()]);
        let asks = || {
            let mut asks: Vec<_> =
                managers.due(9, LIFETIMES).0.into_iter().map(|(_, ask)| ask.map(|ask| ask.key)).collect();
            asks.sort();
            asks
        };
        assert!(asks().iter().all(|ask| ask.as_ref().is_err_and(|why| why.starts_with("no secret conf"))));
        managers.configure("vault/1", Some(json!({"uri": "http://a"})));
        managers.configure("none/1", Some(json!({})));
        assert_eq!(asks(), [Ok("apps/a/key".to_owned()), Err("no secret manager: none".to_owned())]);
        managers.settle(A, Ok(json!("x")), 2, LIFETIMES);
        assert_eq!(asks().len(), 0, "not before its time, nor while an answer is awaited");
        managers.configure("vault/1", Some(json!({"uri": "http://b"})));
        assert_eq!(asks().len(), 1, "a manager that is written anew is asked at once");
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_have_waited_longest_are_asked_first() {
        let managers = Managers::default();
        let references = (0..2 * limits::SECRET_CALLS).map(|n| format!("$secret://vault/1/a/{n}").into());
        managers.hold("/routes/1", references.collect());
        let asked = || -> BTreeSet<Box<str>> {
            let (due, ..) = managers.due(limits::SECRET_CALLS, LIFETIMES);
            due.into_iter().map(|(text, _)| text).collect()
        };
        let first = asked();
        for text in &first {
            managers.settle(text, Err("down".into()), 0, LIFETIMES);
        }
        tokio::time::advance(Duration::from_millis(LIFETIMES.failure_ms)).await;
        let second = asked();
        assert_eq!((first.len(), second.len()), (limits::SECRET_CALLS, limits::SECRET_CALLS));
        assert!(
            first.is_disjoint(&second),
            "those that failed are due again, and keep the others from their turn"
        );
    }

    /// A server that answers all with one secret, or never; its address.
    async fn server(answers: bool) -> Value {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if answers {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let secret = r#"{"data": {"key": "x"}}"#;
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", secret.len());
                    let _ = stream.write_all((head + secret).as_bytes()).await;
                }
                open.push(stream);
            }
        });
        json!({"uri": uri, "prefix": "kv", "token": "t", "timeout": 3600})
    }

    #[tokio::test]
    async fn a_silent_manager_keeps_nobody_waiting_for_another() {
        let managers = Arc::new(Managers::default());
        managers.configure("vault/silent", Some(server(false).await));
        managers.configure("vault/well", Some(server(true).await));
        managers.hold("/routes/1", vec!["$secret://vault/silent/a/key".into()]);
        managers.hold("/routes/2", vec!["$secret://vault/well/a/key".into()]);
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let tls = crate::transport::trust::client_config(&crate::transport::trust::Trust::Anyone, None, &[]);
        let tls = tls.unwrap();
        let tls = Tls { verified: tls.clone(), unverified: tls };
        let following = managers.clone();
        let task = tokio::spawn(async move {
            following.follow(LIFETIMES, tls, |changed| tell.send(keys(changed)).unwrap()).await;
        });
        let mut next =
            async || tokio::time::timeout(Duration::from_secs(30), told.recv()).await.ok().flatten();
        assert_eq!(next().await, Some(vec!["/routes/2".to_owned()]));
        // and what is asked for meanwhile is asked at once
        managers.hold("/routes/3", vec!["$secret://vault/well/b/key".into()]);
        assert_eq!(next().await, Some(vec!["/routes/3".to_owned()]));
        task.abort();
    }

    #[test]
    fn of_very_many_references_some_are_asked_for_at_once() {
        let managers = Managers::default();
        let references = (0..2 * limits::SECRET_CALLS).map(|n| format!("$secret://vault/1/a/{n}").into());
        managers.hold("/routes/1", references.collect());
        let (due, next, _) = managers.due(limits::SECRET_CALLS, LIFETIMES);
        assert_eq!(due.len(), limits::SECRET_CALLS);
        assert!(next <= Instant::now(), "the others follow at once");
    }
}
