//! What rskafka says, as clients of the gateway get it: messages, and names of errors.

use rskafka::client::error::{Error, ProtocolError};
use rskafka::record::RecordAndOffset;

use crate::mail::messaging::Batch;
use crate::wire::pubsub::KafkaMessage;

/// Why a call failed.
#[derive(Debug, PartialEq)]
pub enum Trouble {
    /// No broker of the cluster can be used.
    Unreachable,
    /// A broker has answered, and will answer the same again.
    Said(String),
    /// A connection broke, or the leader is another one: the next try may go well.
    Broken(String),
}

impl Trouble {
    /// For the client. What lua-resty-kafka has no metadata of it does not find.
    pub fn text(self) -> Box<str> {
        match self {
            Trouble::Unreachable => "not found topic".into(),
            Trouble::Said(reason) | Trouble::Broken(reason) => reason.into(),
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        match error {
            Error::ServerError { protocol_error, .. } => Trouble::Said(name_of(protocol_error)),
            Error::InvalidResponse(reason) if reason.contains("metadata for partition") => {
                Trouble::Said("not found partition".into())
            }
            Error::InvalidResponse(reason) => Trouble::Said(reason),
            other => Trouble::Broken(other.to_string()),
        }
    }
}

/// `OFFSET_OUT_OF_RANGE` for `OffsetOutOfRange`: Kafka's own names, which lua-resty-kafka uses.
fn name_of(error: ProtocolError) -> String {
    let mut name = String::new();
    for (n, letter) in format!("{error:?}").chars().enumerate() {
        if n > 0 && letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// The messages fetched from the offset `from` on; before `next` there are no others.
pub fn batch(from: i64, next: i64, records: Vec<RecordAndOffset>) -> Batch {
    let bytes = records.iter().map(|record| record.record.approximate_size() + 32).sum();
    let mut out = Vec::with_capacity(bytes);
    let mut messages = Vec::with_capacity(records.len());
    for RecordAndOffset { record, offset } in records {
        let message = KafkaMessage {
            offset,
            timestamp: record.timestamp.timestamp_millis(),
            key: record.key.unwrap_or_default(),
            value: record.value.unwrap_or_default(),
        };
        message.append_to(&mut out);
        messages.push((offset, u32::try_from(out.len()).unwrap_or(u32::MAX)));
    }
    Batch::new(from, messages, out.into()).reaching(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pubsub::KafkaMessages;
    use prost::Message;
    use rskafka::chrono::DateTime;
    use rskafka::record::Record;

    #[test]
    fn errors_have_kafka_s_names() {
        for (error, name) in [
            (ProtocolError::OffsetOutOfRange, "OFFSET_OUT_OF_RANGE"),
            (ProtocolError::UnknownTopicOrPartition, "UNKNOWN_TOPIC_OR_PARTITION"),
            (ProtocolError::TopicAuthorizationFailed, "TOPIC_AUTHORIZATION_FAILED"),
        ] {
            assert_eq!(name_of(error), name);
        }
    }

    #[test]
    fn records_become_messages() {
        let record = |offset, key: Option<&str>, value: Option<&str>| RecordAndOffset {
            offset,
            record: Record {
                key: key.map(|key| key.into()),
                value: value.map(|value| value.into()),
                headers: [("h".to_owned(), vec![1])].into(),
                timestamp: DateTime::from_timestamp_millis(1_700_000_000_123).unwrap(),
            },
        };
        let batch = batch(14, 14, vec![record(15, None, Some("v")), record(18, Some("k"), None)]);
        assert_eq!((batch.from, batch.next), (14, 19));
        let whole = batch.cut(0, usize::MAX, usize::MAX);
        let read = KafkaMessages::decode(whole.bytes).unwrap().messages;
        let seen: Vec<_> = read.iter().map(|m| (m.offset, &m.key[..], &m.value[..])).collect();
        assert_eq!(seen, [(15, &b""[..], &b"v"[..]), (18, b"k", b"")]);
        assert_eq!(read[0].timestamp, 1_700_000_000_123);
        let passed_over = super::batch(14, 16, Vec::new());
        assert_eq!(
            (passed_over.from, passed_over.next),
            (14, 16),
            "no message, but two ends of transactions"
        );
    }
}
