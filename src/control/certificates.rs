//! What control knows of the certificates in use: when they expire, and what their authorities say of them
//! (apisix/plugins/ocsp-stapling.lua), which it asks for ahead of time and lays where all cores find it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use x509_parser::asn1_rs::FromDer;
use x509_parser::certificate::X509Certificate;

use super::call::{Place, call};
use crate::limits;
use crate::model::delta::{Batch, Delta, Object};
use crate::model::{Id, Kind, Stored};
use crate::telemetry::clock;
use crate::transport::ocsp::{self, Staple, Staples};

/// All of them.
pub struct Certificates {
    staples: Arc<Staples>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: BTreeMap<Key, Known>,
    /// Whose authority is asked when, seconds since 1970.
    due: BTreeSet<(i64, Key)>,
}

/// An ssl object, and which of its certificates.
type Key = (Id, usize);

/// One certificate.
struct Known {
    /// The first name of the object, empty for a client's.
    sni: Box<str>,
    not_after_s: i64,
    stapling: Option<Stapling>,
}

/// What is asked of its authority.
struct Stapling {
    question: Question,
    staple: Arc<Staple>,
    /// Why the last question was in vain, if it was.
    failure: Option<String>,
    /// When its authority is asked next, seconds since 1970: its place in [`State::due`].
    due_s: i64,
}

impl State {
    /// A certificate's authority is asked at this time, and no more at the one before.
    fn schedule(&mut self, key: &Key, due_s: i64) {
        let Some(stapling) = self.known.get_mut(key).and_then(|known| known.stapling.as_mut()) else {
            return;
        };
        self.due.remove(&(stapling.due_s, key.clone()));
        stapling.due_s = due_s;
        self.due.insert((due_s, key.clone()));
    }

    fn forget(&mut self, id: &Id) {
        let of_object = (id.clone(), 0)..=(id.clone(), usize::MAX);
        let keys: Vec<Key> = self.known.range(of_object).map(|(key, _)| key.clone()).collect();
        for key in keys {
            if let Some(Known { stapling: Some(stapling), .. }) = self.known.remove(&key) {
                self.due.remove(&(stapling.due_s, key));
            }
        }
    }
}

/// Everything that a question needs.
#[derive(Clone)]
struct Question {
    certificate: Arc<[u8]>,
    /// The next one in the chain.
    issuer: Option<Arc<[u8]>>,
    skip_verify: bool,
    ttl_s: i64,
}

/// A response, and until when it may be shown.
type Answer = Result<(Arc<[u8]>, Option<i64>), String>;

/// A certificate as metrics and the Control API show it.
pub struct Shown {
    /// Its ssl object.
    pub id: String,
    /// Which of the object's, from 0: `cert`, then `certs`.
    pub index: usize,
    /// The object's first name.
    pub sni: String,
    /// Seconds since 1970.
    pub not_after_s: i64,
    /// Less than 0 when it has expired.
    pub days_left: f64,
    /// Whether a response is stapled, and else why not, where stapling is on.
    pub stapled: Option<Result<(), String>>,
}

impl Certificates {
    /// None yet; responses go to `staples`.
    pub fn new(staples: Arc<Staples>) -> Self {
        Certificates { staples, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that expire first, and how many there are.
    pub fn shown(&self) -> (Vec<Shown>, usize) {
        let State { known, .. } = &*self.state();
        let mut order: Vec<_> = known.iter().collect();
        order.sort_by_key(|(_, certificate)| certificate.not_after_s);
        order.truncate(limits::CERTIFICATES_SHOWN);
        let now_s = now_s();
        let shown = order.into_iter().map(|((id, index), certificate)| Shown {
            id: id.to_string(),
            index: *index,
            sni: certificate.sni.to_string(),
            not_after_s: certificate.not_after_s,
            days_left: (certificate.not_after_s - now_s) as f64 / 86_400.0,
            stapled: certificate.stapling.as_ref().map(|stapling| match stapling.staple.get() {
                Some(_) => Ok(()),
                None => Err(stapling.failure.clone().unwrap_or_else(|| "not asked yet".into())),
            }),
        });
        (shown.collect(), known.len())
    }

    /// How many have a response to show, and how many should have one and have not.
    pub fn stapled(&self) -> (usize, usize) {
        let State { known, .. } = &*self.state();
        let all = known.values().filter_map(|certificate| certificate.stapling.as_ref());
        let (with, without): (Vec<_>, Vec<_>) = all.partition(|stapling| stapling.staple.get().is_some());
        (with.len(), without.len())
    }

    /// `GET /v1/ringway/certificates` of the Control API.
    pub fn document(&self) -> Value {
        let (shown, total) = self.shown();
        let list: Vec<Value> = shown
            .into_iter()
            .map(|one| {
                let mut value = json!({
                    "id": one.id,
                    "index": one.index,
                    "sni": one.sni,
                    "not_after": one.not_after_s,
                    "days_left": one.days_left.floor(),
                });
                if let Some(stapled) = one.stapled {
                    value["stapled"] = json!(stapled.is_ok());
                    stapled.err().into_iter().for_each(|why| value["not_stapled_because"] = json!(why));
                }
                value
            })
            .collect();
        json!({"total": total, "list": list})
    }

    /// Takes in what changes, and asks authorities when it is time, until the gateway ends.
    pub async fn follow(&self, mut news: mpsc::UnboundedReceiver<Batch>, tls: Arc<ClientConfig>) {
        let mut calls: JoinSet<(Key, Question, Answer)> = JoinSet::new();
        loop {
            let wait_s = self.ask_due(&mut calls, &tls).unwrap_or(3600).clamp(0, 3600);
            tokio::select! {
                batch = news.recv() => match batch {
                    Some(batch) => self.take(&batch).await,
                    None => return,
                },
                Some(Ok((key, question, answer))) = calls.join_next() => self.settle(&key, &question, answer),
                () = tokio::time::sleep(Duration::from_secs(wait_s.unsigned_abs())) => {}
            }
        }
    }

    /// Reads the certificates of new ssl objects. An expired one is served, and said so.
    async fn take(&self, batch: &Batch) {
        let mut expired = 0;
        let mut read = 0;
        for delta in batch.deltas.iter() {
            match delta {
                Delta::Put(Object::Ssl(object)) => {
                    self.state().forget(&object.id);
                    for (key, certificate) in certificates(object, &self.staples) {
                        if certificate.not_after_s < now_s() {
                            expired += 1;
                            if expired <= limits::EXPIRED_LINES {
                                log::warn!(
                                    "a certificate of ssl {} ({}) has expired",
                                    key.0,
                                    certificate.sni
                                );
                            }
                        }
                        let mut state = self.state();
                        state.known.insert(key.clone(), certificate);
                        state.schedule(&key, 0);
                    }
                }
                Delta::Delete(Kind::Ssl, id) => self.state().forget(id),
                _ => continue,
            }
            read += 1;
            if read % limits::CERTIFICATES_PER_SLICE == 0 {
                tokio::task::yield_now().await;
            }
        }
        if expired > limits::EXPIRED_LINES {
            log::warn!("{expired} certificates have expired");
        }
    }

    /// Asks for those whose time has come, some at once. Gives the seconds until the next, if there is one.
    fn ask_due(&self, calls: &mut JoinSet<(Key, Question, Answer)>, tls: &Arc<ClientConfig>) -> Option<i64> {
        let now_s = now_s();
        let State { known, due } = &mut *self.state();
        while calls.len() < limits::OCSP_CALLS {
            let (due_s, _) = due.first()?;
            if *due_s > now_s {
                return Some(due_s - now_s);
            }
            let (_, key) = due.pop_first()?;
            let Some(stapling) = known.get(&key).and_then(|certificate| certificate.stapling.as_ref()) else {
                continue; // the object has gone meanwhile
            };
            let (question, tls) = (stapling.question.clone(), tls.clone());
            calls.spawn(async move {
                let patience = Duration::from_millis(limits::OCSP_PATIENCE_MS);
                let asked = tokio::time::timeout(patience, ask(&question, &tls)).await;
                (key, question, asked.unwrap_or_else(|_| Err("the responder took too long".into())))
            });
        }
        None // the end of a call wakes
    }

    /// Lays the answer where handshakes find it. A response that was good stays until it no longer is.
    fn settle(&self, key: &Key, question: &Question, answer: Answer) {
        let mut state = self.state();
        let stapling = state.known.get_mut(key).and_then(|certificate| certificate.stapling.as_mut());
        // the object may be another one meanwhile
        let Some(stapling) = stapling.filter(|s| s.question.certificate == question.certificate) else {
            return;
        };
        let now_s = now_s();
        let again_s = match answer {
            Ok((response, until_s)) => {
                // one that says no end, or was not looked at, is good for as long as it is kept
                let kept_until_s = now_s.saturating_add(question.ttl_s);
                stapling.staple.set(response, until_s.unwrap_or(kept_until_s));
                stapling.failure = None;
                // in good time before its end
                let half_s = until_s.map_or(i64::MAX, |until_s| ((until_s - now_s) / 2).max(1));
                question.ttl_s.min(half_s)
            }
            Err(why) => {
                log::error!("no ocsp response send: ssl {}: {why}", key.0);
                stapling.failure = Some(why);
                stapling.staple.expire(now_s);
                limits::OCSP_RETRY_S
            }
        };
        state.schedule(key, now_s.saturating_add(again_s));
    }
}

fn now_s() -> i64 {
    i64::try_from(clock::unix_s()).unwrap_or(i64::MAX)
}

/// The certificates of an object, as far as they can be read.
fn certificates(object: &Stored<Value>, staples: &Staples) -> Vec<(Key, Known)> {
    let value = &object.value;
    if value.get("status").is_some_and(|status| status != 1) {
        return Vec::new();
    }
    let sni =
        value.get("sni").or_else(|| value.pointer("/snis/0")).and_then(Value::as_str).unwrap_or_default();
    let more = value.get("certs").and_then(Value::as_array).into_iter().flatten();
    let chains = value.get("cert").into_iter().chain(more).filter_map(Value::as_str);
    let stapling = value.get("ocsp_stapling").filter(|options| options["enabled"] == true);
    let read = chains.enumerate().filter_map(|(index, chain)| {
        let mut chain = CertificateDer::pem_slice_iter(chain.as_bytes());
        let own = chain.next()?.ok()?;
        let (_, parsed) = X509Certificate::from_der(&own).ok()?;
        let not_after_s = parsed.validity().not_after.timestamp();
        let stapling = stapling.map(|options| Stapling {
            staple: staples.of(&own),
            question: Question {
                certificate: Arc::from(&own[..]),
                issuer: chain.next().and_then(Result::ok).map(|issuer| Arc::from(&issuer[..])),
                skip_verify: options["skip_verify"] == true,
                ttl_s: options["cache_ttl"].as_i64().unwrap_or(3600),
            },
            failure: None,
            due_s: 0,
        });
        Some(((object.id.clone(), index), Known { sni: sni.into(), not_after_s, stapling }))
    });
    read.collect()
}

/// Asks the certificate's responder, and looks at what it says.
async fn ask(question: &Question, tls: &Arc<ClientConfig>) -> Answer {
    let Question { certificate, issuer, skip_verify, .. } = question;
    let url = ocsp::responder(certificate).ok_or("failed to get ocsp url: the certificate names none")?;
    let issuer =
        issuer.as_deref().ok_or("failed to create ocsp request: no issuer certificate in the chain")?;
    let place = Place::of(&url).ok_or_else(|| format!("failed to get ocsp url: {url} cannot be read"))?;
    let request = Request::post(if place.path.is_empty() { "/" } else { place.path })
        .header("Host", place.authority)
        .header("Content-Type", "application/ocsp-request")
        .body(Full::new(Bytes::from(ocsp::request(certificate, issuer)?)))
        .map_err(|error| error.to_string())?;
    let (status, body) = call(&place, request, tls, limits::OCSP_ANSWER_BYTES)
        .await
        .map_err(|error| format!("ocsp responder query failed: {error}"))?;
    match (status, body.is_empty()) {
        (200, false) => {}
        (200, true) => return Err("ocsp responder returns empty body".into()),
        (status, _) => return Err(format!("ocsp responder returns bad http status code: {status}")),
    }
    if *skip_verify {
        return Ok((Arc::from(&body[..]), None));
    }
    let until_s = ocsp::check(&body, certificate, issuer, now_s())
        .map_err(|why| format!("failed to validate ocsp response: {why}"))?;
    Ok((Arc::from(&body[..]), until_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(id: &str, cert: &str) -> Batch {
        let value = json!({"snis": ["a.test", "b.test"], "cert": cert, "ocsp_stapling": {"enabled": true}});
        let object = Stored { id: id.into(), create_revision: 1, modify_revision: 1, value };
        Batch { revision: 1, deltas: Arc::new([Delta::Put(Object::Ssl(Arc::new(object)))]) }
    }

    fn block_on(work: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    }

    /// A response that was good is shown until it no longer is, whatever becomes of its responder.
    #[test]
    fn answers_and_failures() {
        block_on(async {
            let staples = Arc::new(Staples::default());
            let certificates = Certificates::new(staples.clone());
            let pem = include_str!("../transport/tests/ocsp/leaf.pem");
            certificates.take(&put("1", pem)).await;
            let key: Key = ("1".into(), 0);
            let (question, staple) = {
                let state = certificates.state();
                let stapling = state.known[&key].stapling.as_ref().unwrap();
                (stapling.question.clone(), stapling.staple.clone())
            };
            let due_in = || certificates.state().due.first().map(|(due_s, _)| *due_s - now_s());
            assert!(due_in().is_some_and(|s| s < 0), "it is asked at once");
            certificates.state().due.clear();
            let good = |until_s| Ok((Arc::from(&b"response"[..]), Some(now_s() + until_s)));
            certificates.settle(&key, &question, good(100_000));
            assert!(staple.get().is_some());
            assert!(due_in().is_some_and(|s| (3590..=3600).contains(&s)), "cache_ttl");
            certificates.state().due.clear();
            certificates.settle(&key, &question, good(600));
            assert!(due_in().is_some_and(|s| (290..=300).contains(&s)), "half of its time");
            certificates.settle(&key, &question, Err("down".into()));
            assert!(staple.get().is_some());
            assert!(due_in().is_some_and(|s| s <= limits::OCSP_RETRY_S));
            certificates.settle(&key, &question, good(-10));
            certificates.settle(&key, &question, Err("down".into()));
            assert!(staple.get().is_none(), "it is no longer good");
            assert_eq!(certificates.stapled(), (0, 1));
            certificates.take(&put("1", include_str!("../transport/tests/server.pem"))).await;
            certificates.settle(&key, &question, good(600));
            assert_eq!(certificates.stapled(), (0, 1), "an answer about what was there before");
            let gone = Batch { revision: 2, deltas: Arc::new([Delta::Delete(Kind::Ssl, "1".into())]) };
            certificates.take(&gone).await;
            assert_eq!(certificates.shown().1, 0);
        });
    }

    /// As in APISIX, whose cache has forgotten it by then.
    #[test]
    fn a_response_that_says_no_end_is_shown_for_as_long_as_it_may_be_kept() {
        block_on(async {
            for (ttl_s, is_shown) in [(0, false), (3600, true), (i64::MAX, true)] {
                let certificates = due([Question { ttl_s, ..question(1) }]);
                let key: Key = ("0".into(), 0);
                let (question, staple) = {
                    let state = certificates.state();
                    let stapling = state.known[&key].stapling.as_ref().unwrap();
                    (stapling.question.clone(), stapling.staple.clone())
                };
                certificates.settle(&key, &question, Ok((Arc::from(&b"response"[..]), None)));
                assert!(staple.get().is_some());
                let due_s = certificates.state().known[&key].stapling.as_ref().unwrap().due_s;
                assert!(due_s.saturating_sub(ttl_s) >= 0, "asked again when it is over: {due_s}");
                certificates.settle(&key, &question, Err("down".into()));
                assert_eq!(staple.get().is_some(), is_shown, "{ttl_s}");
            }
        });
    }

    #[test]
    fn what_is_written_again_shows_no_response_any_longer() {
        block_on(async {
            let certificates = Certificates::new(Arc::default());
            let pem = include_str!("../transport/tests/ocsp/leaf.pem");
            certificates.take(&put("1", pem)).await;
            let key: Key = ("1".into(), 0);
            let stapling = || {
                let state = certificates.state();
                let stapling = state.known[&key].stapling.as_ref().unwrap();
                (stapling.question.clone(), stapling.staple.clone())
            };
            let (question, of_a_core) = stapling();
            certificates.settle(&key, &question, Ok((Arc::from(&b"response"[..]), Some(now_s() - 10))));
            certificates.take(&put("1", pem)).await;
            assert!(of_a_core.get().is_some() && Arc::ptr_eq(&of_a_core, &stapling().1));
            certificates.settle(&key, &question, Err("down".into()));
            assert!(of_a_core.get().is_none(), "it was good until before");
        });
    }

    /// However often an object is written, with questions under way or not.
    #[test]
    fn an_authority_is_asked_in_one_series_however_often_an_object_is_written() {
        block_on(async {
            let certificates = Certificates::new(Arc::default());
            let pem = include_str!("../transport/tests/ocsp/leaf.pem");
            let key: Key = ("1".into(), 0);
            for _ in 0..3 {
                certificates.take(&put("1", pem)).await;
                let question = certificates.state().known[&key].stapling.as_ref().unwrap().question.clone();
                certificates.settle(&key, &question, Err("down".into()));
                assert_eq!(certificates.state().due.len(), 1);
                // the answer to a question of before the write
                certificates.settle(&key, &question, Err("down".into()));
                assert_eq!(certificates.state().due.len(), 1);
            }
            let gone = Batch { revision: 2, deltas: Arc::new([Delta::Delete(Kind::Ssl, "1".into())]) };
            certificates.take(&gone).await;
            assert!(certificates.state().due.is_empty());
        });
    }

    fn tls() -> Arc<ClientConfig> {
        crate::transport::trust::client_config(&crate::transport::trust::Trust::Anyone, None, &[]).unwrap()
    }

    /// What is asked about a certificate whose responder is at this port of this host.
    fn question(port: u16) -> Question {
        const WRITTEN: &[u8] = b"http://ocsp.test:8080/x";
        let pem = include_str!("../transport/tests/ocsp/leaf.pem");
        let mut leaf = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
        let at = leaf.windows(WRITTEN.len()).position(|part| part == WRITTEN).unwrap();
        let here = format!("http://127.0.0.1:{port:05}/");
        leaf[at..at + WRITTEN.len()].copy_from_slice(here.as_bytes());
        let ca = include_str!("../transport/tests/ocsp/ca.pem");
        let issuer = CertificateDer::from_pem_slice(ca.as_bytes()).unwrap();
        Question {
            certificate: leaf.into(),
            issuer: Some(issuer.to_vec().into()),
            skip_verify: true,
            ttl_s: 3600,
        }
    }

    /// Certificates with these questions, all of them due.
    fn due(questions: impl IntoIterator<Item = Question>) -> Certificates {
        let certificates = Certificates::new(Arc::default());
        for (n, question) in questions.into_iter().enumerate() {
            let staple = Arc::default();
            let stapling = Stapling { question, staple, failure: None, due_s: 0 };
            let known = Known { sni: "".into(), not_after_s: 0, stapling: Some(stapling) };
            let key: Key = (n.to_string().into(), 0);
            let State { known: all, due } = &mut *certificates.state();
            due.insert((0, key.clone()));
            all.insert(key, known);
        }
        certificates
    }

    /// A responder whose answer has a body of so many bytes; it holds its connections open.
    async fn responder(bytes: usize) -> u16 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if bytes > 0 {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
                    let _ = stream.write_all(&[head.as_bytes(), &vec![b'x'; bytes]].concat()).await;
                }
                open.push(stream);
            }
        });
        port
    }

    #[tokio::test(start_paused = true)]
    async fn silent_responders_are_asked_a_few_at_once_and_not_waited_for_without_end() {
        let port = responder(0).await;
        let certificates = due((0..2 * limits::OCSP_CALLS + 1).map(|_| question(port)));
        let mut calls = JoinSet::new();
        let began = tokio::time::Instant::now();
        for round in 1..=2 {
            assert_eq!(certificates.ask_due(&mut calls, &tls()), None);
            assert_eq!(calls.len(), limits::OCSP_CALLS, "the others wait for their turn");
            while let Some(Ok((_, _, answer))) = calls.join_next().await {
                assert_eq!(answer.unwrap_err(), "the responder took too long");
            }
            let took_ms = began.elapsed().as_millis() as u64;
            assert!(took_ms.abs_diff(round * limits::OCSP_PATIENCE_MS) < 100, "{took_ms} ms");
        }
        certificates.ask_due(&mut calls, &tls());
        assert_eq!(calls.len(), 1);
    }

    #[test]
    fn a_response_has_a_longest_length() {
        block_on(async {
            for (bytes, is_taken) in
                [(limits::OCSP_ANSWER_BYTES, true), (limits::OCSP_ANSWER_BYTES + 1, false)]
            {
                let answer = ask(&question(responder(bytes).await), &tls()).await;
                assert_eq!(answer.is_ok(), is_taken, "{bytes}: {:?}", answer.err());
            }
        });
    }

    #[test]
    fn those_that_expire_first_are_shown_up_to_a_bound() {
        let certificates = Certificates::new(Arc::default());
        for n in 0..limits::CERTIFICATES_SHOWN + 5 {
            let known = Known { sni: "".into(), not_after_s: -(n as i64), stapling: None };
            certificates.state().known.insert((n.to_string().into(), 0), known);
        }
        let (shown, all) = certificates.shown();
        assert_eq!((shown.len(), all), (limits::CERTIFICATES_SHOWN, limits::CERTIFICATES_SHOWN + 5));
        assert_eq!(shown[0].id, (limits::CERTIFICATES_SHOWN + 4).to_string());
    }

    /// How often a future has to be asked until it is done.
    async fn turns(work: impl Future<Output = ()>) -> usize {
        let (mut work, mut turns) = (std::pin::pin!(work), 0);
        std::future::poll_fn(|cx| {
            turns += 1;
            work.as_mut().poll(cx)
        })
        .await;
        turns
    }

    #[test]
    fn a_load_of_certificates_is_read_in_slices() {
        let Batch { deltas, .. } = put("1", include_str!("../transport/tests/server.pem"));
        let deltas: Vec<Delta> =
            (0..3 * limits::CERTIFICATES_PER_SLICE + 1).map(|_| deltas[0].clone()).collect();
        let certificates = Certificates::new(Arc::default());
        block_on(async {
            assert_eq!(turns(certificates.take(&Batch { revision: 1, deltas: deltas.into() })).await, 4);
        });
    }
}
