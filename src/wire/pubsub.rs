//! The messages of `proto/pubsub.proto`, in Rust. A test compiles the schema and compares.
//!
//! Written by hand, so that a fresh machine builds without a protobuf compiler.

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost::{Message, Oneof};

/// `PubSubReq`
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// Chosen by the client; its answer has the same.
    #[prost(int64, tag = "1")]
    pub sequence: i64,
    /// What it wants.
    #[prost(oneof = "Command", tags = "31, 32, 33, 34, 1001, 1002, 1003")]
    pub command: Option<Command>,
}

/// `PubSubReq.req`
#[derive(Clone, PartialEq, Oneof)]
pub enum Command {
    /// `cmd_empty`: of no system, for tests.
    #[prost(message, tag = "31")]
    Empty(Empty),
    /// `cmd_ping`
    #[prost(message, tag = "32")]
    Ping(Ping),
    /// `cmd_kafka_fetch`
    #[prost(message, tag = "33")]
    KafkaFetch(KafkaFetch),
    /// `cmd_kafka_list_offset`
    #[prost(message, tag = "34")]
    KafkaListOffset(KafkaListOffset),
    /// `cmd_kafka_subscribe`
    #[prost(message, tag = "1001")]
    KafkaSubscribe(KafkaSubscribe),
    /// `cmd_credit`
    #[prost(message, tag = "1002")]
    Credit(Credit),
    /// `cmd_unsubscribe`
    #[prost(message, tag = "1003")]
    Unsubscribe(Unsubscribe),
}

impl Command {
    /// Its name in the schema.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Empty(_) => "cmd_empty",
            Command::Ping(_) => "cmd_ping",
            Command::KafkaFetch(_) => "cmd_kafka_fetch",
            Command::KafkaListOffset(_) => "cmd_kafka_list_offset",
            Command::KafkaSubscribe(_) => "cmd_kafka_subscribe",
            Command::Credit(_) => "cmd_credit",
            Command::Unsubscribe(_) => "cmd_unsubscribe",
        }
    }
}

/// `CmdEmpty`
#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

/// `CmdPing`, and `PongResp`.
#[derive(Clone, PartialEq, Message)]
pub struct Ping {
    /// Comes back as it is.
    #[prost(bytes = "bytes", tag = "1")]
    pub state: Bytes,
}

/// `CmdKafkaFetch`
#[derive(Clone, PartialEq, Message)]
pub struct KafkaFetch {
    /// Topic.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// Partition.
    #[prost(int32, tag = "2")]
    pub partition: i32,
    /// The first offset wanted.
    #[prost(int64, tag = "3")]
    pub offset: i64,
}

/// `CmdKafkaListOffset`
#[derive(Clone, PartialEq, Message)]
pub struct KafkaListOffset {
    /// Topic.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// Partition.
    #[prost(int32, tag = "2")]
    pub partition: i32,
    /// Milliseconds since 1970; −1 is behind the last message, −2 the first message.
    #[prost(int64, tag = "3")]
    pub timestamp: i64,
}

/// `CmdKafkaSubscribe`
#[derive(Clone, PartialEq, Message)]
pub struct KafkaSubscribe {
    /// Topic.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// Partition.
    #[prost(int32, tag = "2")]
    pub partition: i32,
    /// The first offset wanted; −1 is behind the last message, −2 the first message.
    #[prost(int64, tag = "3")]
    pub offset: i64,
    /// Messages that may be sent.
    #[prost(int64, tag = "4")]
    pub credit: i64,
}

/// `CmdCredit`
#[derive(Clone, PartialEq, Message)]
pub struct Credit {
    /// The sequence of the subscription.
    #[prost(int64, tag = "1")]
    pub subscription: i64,
    /// Messages that may be sent beside those of before.
    #[prost(int64, tag = "2")]
    pub messages: i64,
}

/// `CmdUnsubscribe`
#[derive(Clone, PartialEq, Message)]
pub struct Unsubscribe {
    /// The sequence of the subscription.
    #[prost(int64, tag = "1")]
    pub subscription: i64,
}

/// `PubSubResp`
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    /// That of the command.
    #[prost(int64, tag = "1")]
    pub sequence: i64,
    /// The answer.
    #[prost(oneof = "Answer", tags = "31, 32, 33, 34, 1001, 1003")]
    pub answer: Option<Answer>,
}

/// `PubSubResp.resp`
#[derive(Clone, PartialEq, Oneof)]
pub enum Answer {
    /// `error_resp`
    #[prost(message, tag = "31")]
    Error(Error),
    /// `pong_resp`
    #[prost(message, tag = "32")]
    Pong(Ping),
    /// `kafka_fetch_resp`. The gateway sends these with [`fetched`], which copies no message.
    #[prost(message, tag = "33")]
    KafkaFetch(KafkaMessages),
    /// `kafka_list_offset_resp`
    #[prost(message, tag = "34")]
    KafkaListOffset(Offset),
    /// `kafka_subscribe_resp`
    #[prost(message, tag = "1001")]
    KafkaSubscribe(Offset),
    /// `unsubscribe_resp`
    #[prost(message, tag = "1003")]
    Unsubscribe(Offset),
}

/// `ErrorResp`
#[derive(Clone, PartialEq, Message)]
pub struct Error {
    /// Always 0 (apisix/core/pubsub.lua).
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Why.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// `KafkaListOffsetResp`, `KafkaSubscribeResp`, `UnsubscribeResp`.
#[derive(Clone, PartialEq, Message)]
pub struct Offset {
    /// The offset.
    #[prost(int64, tag = "1")]
    pub offset: i64,
}

/// `KafkaFetchResp`
#[derive(Clone, PartialEq, Message)]
pub struct KafkaMessages {
    /// In the order of their offsets.
    #[prost(message, repeated, tag = "1")]
    pub messages: Vec<KafkaMessage>,
}

/// `KafkaMessage`
#[derive(Clone, PartialEq, Message)]
pub struct KafkaMessage {
    /// Its place in the partition.
    #[prost(int64, tag = "1")]
    pub offset: i64,
    /// Milliseconds since 1970.
    #[prost(int64, tag = "2")]
    pub timestamp: i64,
    /// Its key; empty if it has none.
    #[prost(bytes = "vec", tag = "3")]
    pub key: Vec<u8>,
    /// What it says.
    #[prost(bytes = "vec", tag = "4")]
    pub value: Vec<u8>,
}

impl KafkaMessage {
    /// Appends itself as one of the `messages` of a [`KafkaMessages`]: such pieces in a row are a whole one.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        encode_key(1, WireType::LengthDelimited, out);
        encode_varint(self.encoded_len() as u64, out);
        self.encode_raw(out);
    }
}

/// Appends the beginning of a `PubSubResp` with a `kafka_fetch_resp` of `length` bytes, which follow.
pub fn fetched(sequence: i64, length: usize, out: &mut Vec<u8>) {
    if sequence != 0 {
        prost::encoding::int64::encode(1, &sequence, out);
    }
    encode_key(33, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_reflect::DynamicMessage;

    /// The schema that clients get.
    fn schema() -> prost_reflect::DescriptorPool {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
        let files = protox::compile(["pubsub.proto"], [folder]).expect("the schema compiles");
        prost_reflect::DescriptorPool::from_file_descriptor_set(files).expect("the schema links")
    }

    /// What a client that has the schema reads of these bytes, as the text format shows it.
    fn seen_as(name: &str, bytes: &[u8]) -> String {
        let message = schema().get_message_by_name(name).expect("the message is in the schema");
        let message = DynamicMessage::decode(message, bytes).expect("it can be read");
        assert_eq!(message.unknown_fields().count(), 0, "{message}");
        message.to_string()
    }

    #[test]
    fn requests_are_those_of_the_schema() {
        let place = || ("t".to_owned(), 2);
        let (topic, partition) = place();
        for (command, text) in [
            (Command::Empty(Empty {}), "cmd_empty{}"),
            (Command::Ping(Ping { state: "x".into() }), "cmd_ping{state:\"x\"}"),
            (
                Command::KafkaFetch(KafkaFetch { topic: topic.clone(), partition, offset: 5 }),
                "cmd_kafka_fetch{topic:\"t\",partition:2,offset:5}",
            ),
            (
                Command::KafkaListOffset(KafkaListOffset { topic: topic.clone(), partition, timestamp: -2 }),
                "cmd_kafka_list_offset{topic:\"t\",partition:2,timestamp:-2}",
            ),
            (
                Command::KafkaSubscribe(KafkaSubscribe { topic, partition, offset: -1, credit: 9 }),
                "cmd_kafka_subscribe{topic:\"t\",partition:2,offset:-1,credit:9}",
            ),
            (
                Command::Credit(Credit { subscription: 4, messages: 6 }),
                "cmd_credit{subscription:4,messages:6}",
            ),
            (Command::Unsubscribe(Unsubscribe { subscription: 4 }), "cmd_unsubscribe{subscription:4}"),
        ] {
            assert!(text.starts_with(command.name()), "{text}");
            let request = Request { sequence: 7, command: Some(command) };
            let bytes = request.encode_to_vec();
            assert_eq!(seen_as("PubSubReq", &bytes), format!("sequence:7,{text}"));
            assert_eq!(Request::decode(&*bytes), Ok(request));
        }
    }

    #[test]
    fn answers_are_those_of_the_schema() {
        let offset = || Offset { offset: 30 };
        for (answer, text) in [
            (Answer::Error(Error { code: 0, message: "no".into() }), "error_resp{message:\"no\"}"),
            (Answer::Pong(Ping { state: "x".into() }), "pong_resp{state:\"x\"}"),
            (Answer::KafkaListOffset(offset()), "kafka_list_offset_resp{offset:30}"),
            (Answer::KafkaSubscribe(offset()), "kafka_subscribe_resp{offset:30}"),
            (Answer::Unsubscribe(offset()), "unsubscribe_resp{offset:30}"),
        ] {
            let bytes = Response { sequence: -3, answer: Some(answer) }.encode_to_vec();
            assert_eq!(seen_as("PubSubResp", &bytes), format!("sequence:-3,{text}"));
        }
    }

    #[test]
    fn messages_put_together_by_hand_are_a_fetch_answer() {
        let message = |offset, key: &str, value: &str| KafkaMessage {
            offset,
            timestamp: 1_500_000_000_000,
            key: key.into(),
            value: value.into(),
        };
        let messages = vec![message(0, "", "first"), message(1, "k", "")];
        for sequence in [0, 12] {
            let mut pieces = Vec::new();
            messages.iter().for_each(|message| message.append_to(&mut pieces));
            let mut bytes = Vec::new();
            fetched(sequence, pieces.len(), &mut bytes);
            bytes.extend(pieces);
            let whole = Response {
                sequence,
                answer: Some(Answer::KafkaFetch(KafkaMessages { messages: messages.clone() })),
            };
            assert_eq!(bytes, whole.encode_to_vec());
            assert!(seen_as("PubSubResp", &bytes).contains("value:\"first\""));
        }
    }

    #[test]
    fn what_is_no_request_is_refused_and_what_is_unknown_is_empty() {
        assert!(Request::decode(&b"\x0a"[..]).is_err());
        assert!(Request::decode(&[0xff; 20][..]).is_err());
        // field 1500, of a newer client
        let mut bytes = Vec::new();
        prost::encoding::string::encode(1500, &"new".to_owned(), &mut bytes);
        assert_eq!(Request::decode(&*bytes), Ok(Request::default()));
    }
}
