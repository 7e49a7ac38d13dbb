//! Between cores and the threads of messaging systems: clusters, places in them, batches of messages.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use rustls::ClientConfig;
use tokio::sync::{mpsc, oneshot};

/// A cluster as a route's upstream and plugins describe it. Two that are described alike are one: they share a client.
pub struct Cluster {
    /// All that the others say, as text: it decides what is equal. It may hold a password and is never shown.
    key: Box<str>,
    /// `host:port` of those that are asked first.
    pub brokers: Box<[Box<str>]>,
    /// Who we are.
    pub login: Option<Login>,
    /// TLS towards the brokers.
    pub tls: Option<Arc<ClientConfig>>,
}

/// How a client says who it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    /// The password itself.
    Plain,
    /// SCRAM-SHA-256
    ScramSha256,
    /// SCRAM-SHA-512
    ScramSha512,
}

/// A name with its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// How.
    pub mechanism: Mechanism,
    /// Name.
    pub username: Box<str>,
    /// Password.
    pub password: Box<str>,
}

impl Cluster {
    /// `tls` is the configuration made of `tls_as_written`, which stands for it when clusters are compared.
    pub fn new(
        brokers: Box<[Box<str>]>,
        login: Option<Login>,
        tls: Option<Arc<ClientConfig>>,
        tls_as_written: &str,
    ) -> Cluster {
        let who = login.as_ref().map(|login| (login.mechanism, &login.username, &login.password));
        let key = format!("{brokers:?} {who:?} {tls_as_written}").into();
        Cluster { key, brokers, login, tls }
    }
}

impl PartialEq for Cluster {
    fn eq(&self, other: &Cluster) -> bool {
        self.key == other.key
    }
}

impl Eq for Cluster {}

impl Hash for Cluster {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.brokers.join(","))
    }
}

/// A partition of a topic.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// Topic.
    pub topic: Box<str>,
    /// Partition.
    pub partition: i32,
}

/// Messages of one partition, made once and shared by all who get them. Nothing lies between `from` and `next` that
/// is not in it.
#[derive(Debug)]
pub struct Batch {
    /// The offset that was asked for.
    pub from: i64,
    /// The offset to ask for next.
    pub next: i64,
    /// Offset of each message, and where it ends in `bytes`.
    messages: Vec<(i64, u32)>,
    /// The messages one after the other, as a client gets them.
    bytes: Bytes,
}

/// A part of a batch.
#[derive(Debug, PartialEq)]
pub struct Cut {
    /// Its messages, as a client gets them.
    pub bytes: Bytes,
    /// How many they are.
    pub count: usize,
    /// The offset behind them.
    pub next: i64,
}

impl Batch {
    /// `messages` are offsets, in rising order, and the ends of the messages in `bytes`.
    pub fn new(from: i64, messages: Vec<(i64, u32)>, bytes: Bytes) -> Batch {
        let next = messages.last().map_or(from, |(offset, _)| offset.saturating_add(1));
        Batch { from, next, messages, bytes }
    }

    /// The same, where it is known that there is no other message before `next`.
    pub fn reaching(self, next: i64) -> Batch {
        Batch { next: self.next.max(next), ..self }
    }

    /// How much memory it holds, about.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.messages.len() * size_of::<(i64, u32)>()
    }

    /// The messages from `offset` on: at most `count`, and no more than `bytes` unless the first alone is longer.
    pub fn cut(&self, offset: i64, count: usize, bytes: usize) -> Cut {
        let first = self.messages.partition_point(|(at, _)| *at < offset);
        let begins = first.checked_sub(1).map_or(0, |before| self.messages[before].1 as usize);
        let rest = &self.messages[first..];
        let fitting = rest.iter().take_while(|(_, end)| *end as usize - begins <= bytes).count();
        let count = fitting.max(1).min(count).min(rest.len());
        let next = match rest.get(count) {
            _ if count == 0 && !rest.is_empty() => offset,
            Some((following, _)) => *following,
            None => self.next.max(offset),
        };
        let end = count.checked_sub(1).map_or(begins, |last| rest[last].1 as usize);
        Cut { bytes: self.bytes.slice(begins..end), count, next }
    }
}

/// What came of a call; an error is a text for the client.
pub type Outcome<T> = Result<T, Box<str>>;

/// To the Kafka thread, from a core. Bound: [`crate::limits::KAFKA_MAIL`]; a client whose command finds it full gets an
/// error.
pub struct ToKafka {
    /// Whose.
    pub cluster: Arc<Cluster>,
    /// Where.
    pub place: Place,
    /// What.
    pub ask: Ask,
}

/// What a core wants of a partition.
pub enum Ask {
    /// The offset of a time, or −1 and −2 for the end and the beginning.
    Offset {
        /// Milliseconds since 1970.
        timestamp: i64,
        /// Where the answer goes.
        answer: oneshot::Sender<Outcome<i64>>,
    },
    /// Messages.
    Messages {
        /// The first offset wanted.
        offset: i64,
        /// Somebody else's answer to the same question will do, even one that was asked a moment ago.
        shared: bool,
        /// Where the answer goes.
        answer: oneshot::Sender<Outcome<Arc<Batch>>>,
    },
    /// All messages from now on, until the receiver is dropped. Bound: [`crate::limits::FEED_MAIL`]; what does not
    /// fit is left out.
    Feed(mpsc::Sender<FeedNews>),
}

/// To a core, from a messaging system's thread: what is new in a partition.
#[derive(Clone, Debug)]
pub enum FeedNews {
    /// It begins at this offset.
    Begun(i64),
    /// Messages came.
    Messages(Arc<Batch>),
    /// It is over, for this reason.
    Ended(Arc<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of four bytes each at these offsets.
    fn batch(from: i64, offsets: &[i64]) -> Batch {
        let ends = offsets.iter().zip(1..).map(|(offset, n): (_, u32)| (*offset, n * 4)).collect();
        let bytes: Vec<u8> = offsets.iter().flat_map(|offset| (*offset as u32).to_be_bytes()).collect();
        Batch::new(from, ends, bytes.into())
    }

    #[test]
    fn a_cut_has_what_is_asked_for() {
        // 7 and 8 were compacted away
        let batch = batch(5, &[5, 6, 9, 10]);
        assert_eq!(batch.next, 11);
        for (offset, count, bytes, expected, next) in [
            (5, 100, 1000, &[5, 6, 9, 10][..], 11),
            (6, 100, 1000, &[6, 9, 10], 11),
            (7, 100, 1000, &[9, 10], 11),
            (5, 1, 1000, &[5], 6),
            (5, 2, 1000, &[5, 6], 9),
            (5, 100, 8, &[5, 6], 9),
            (5, 100, 7, &[5], 6),
            (5, 100, 1, &[5], 6), // one message alone may be longer
            (11, 100, 1000, &[], 11),
            (20, 100, 1000, &[], 20),
            (5, 0, 1000, &[], 5),
        ] {
            let cut = batch.cut(offset, count, bytes);
            let expected: Vec<u8> = expected.iter().flat_map(|n: &u32| n.to_be_bytes()).collect();
            assert_eq!(
                (&cut.bytes[..], cut.count, cut.next),
                (&expected[..], expected.len() / 4, next),
                "{offset} {count} {bytes}"
            );
        }
        let empty = Batch::new(3, Vec::new(), Bytes::new());
        assert_eq!(empty.cut(3, 5, 5), Cut { bytes: Bytes::new(), count: 0, next: 3 });
    }

    #[test]
    fn clusters_are_what_they_say() {
        let cluster = |broker: &str, password: Option<&str>, tls| {
            let login = password.map(|password| Login {
                mechanism: Mechanism::Plain,
                username: "u".into(),
                password: password.into(),
            });
            Cluster::new([broker.into()].into(), login, None, tls)
        };
        let one = cluster("a:1", Some("p"), "");
        assert_eq!(one, cluster("a:1", Some("p"), ""));
        for other in [cluster("a:2", Some("p"), ""), cluster("a:1", Some("q"), ""), cluster("a:1", None, "")]
        {
            assert_ne!(one, other);
        }
        assert_ne!(one, cluster("a:1", Some("p"), "{\"verify\":true}"));
        assert_eq!(format!("{one:?}"), "a:1", "no password in a log");
    }
}
