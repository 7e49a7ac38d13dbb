//! A client of publish and subscribe over WebSocket: frames by hand, so that it can send what a good one never would.

use bytes::{BufMut, Bytes};
use prost::Message;
use ringway::wire::pubsub::{
    Answer, Command, Credit, KafkaFetch, KafkaListOffset, KafkaMessage, KafkaSubscribe, Request,
    Response as Said, Unsubscribe,
};

use super::Client;

/// One session.
pub struct PubSub {
    pub client: Client,
    /// Of the next command.
    sequence: i64,
}

/// The head of a good handshake; `fields` end with CRLF.
pub fn upgrade(target: &str, fields: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: gate.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
    )
}

/// A frame as clients send it: the first byte as given, then the payload masked.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ ..126 => frame.put_u8(0x80 | short as u8),
        middle @ ..65_536 => {
            frame.put_u8(0x80 | 126);
            frame.put_u16(middle as u16);
        }
        long => {
            frame.put_u8(0x80 | 127);
            frame.put_u64(long as u64);
        }
    }
    let mask = [7, 0, 255, 19];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

impl PubSub {
    /// Opens a WebSocket.
    #[track_caller]
    pub fn open(port: u16, target: &str) -> PubSub {
        PubSub::open_with(port, target, "")
    }

    /// The same with more fields, each with CRLF.
    #[track_caller]
    pub fn open_with(port: u16, target: &str, fields: &str) -> PubSub {
        let mut client = Client::connect(port);
        let answer = client.send(upgrade(target, fields)).response();
        assert_eq!(answer.status, 101, "{answer}");
        assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
        assert_eq!(answer.header("upgrade"), Some("websocket"), "{answer}");
        assert_eq!(answer.header("connection"), Some("upgrade"), "{answer}");
        PubSub { client, sequence: 0 }
    }

    /// Sends a command; gives its sequence.
    #[track_caller]
    pub fn send(&mut self, command: Command) -> i64 {
        let sequence = self.sequence;
        self.sequence += 1;
        let bytes = Request { sequence, command: Some(command) }.encode_to_vec();
        self.client.send(masked(0x82, &bytes));
        sequence
    }

    /// The next frame: its first byte and its payload.
    #[track_caller]
    pub fn frame(&mut self) -> (u8, Vec<u8>) {
        let head = self.client.bytes(2);
        let length = match head[1] {
            126 => u16::from_be_bytes(self.client.bytes(2).try_into().unwrap()).into(),
            127 => u64::from_be_bytes(self.client.bytes(8).try_into().unwrap()),
            short => u64::from(short),
        };
        assert!(length < 64 << 20, "masked, or nonsense: {head:?} {length}");
        (head[0], self.client.bytes(length as usize))
    }

    /// The next message.
    #[track_caller]
    pub fn next(&mut self) -> Said {
        let (first, payload) = loop {
            match self.frame() {
                (0x89, _) => {} // a test that takes long is asked whether it is there
                other => break other,
            }
        };
        assert_eq!(first, 0x82, "a whole binary message, and no {payload:?}");
        Said::decode(&*payload).unwrap()
    }

    /// One command and its answer.
    #[track_caller]
    pub fn ask(&mut self, command: Command) -> Answer {
        let sequence = self.send(command);
        let said = self.next();
        assert_eq!(said.sequence, sequence, "{said:?}");
        said.answer.expect("an answer")
    }

    /// `cmd_kafka_list_offset`: the offset, or what is wrong.
    #[track_caller]
    pub fn offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> Result<i64, String> {
        let topic = topic.to_owned();
        match self.ask(Command::KafkaListOffset(KafkaListOffset { topic, partition, timestamp })) {
            Answer::KafkaListOffset(offset) => Ok(offset.offset),
            Answer::Error(error) => Err(error.message),
            other => panic!("{other:?}"),
        }
    }

    /// `cmd_kafka_fetch`: the messages, or what is wrong.
    #[track_caller]
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> Result<Vec<KafkaMessage>, String> {
        let topic = topic.to_owned();
        match self.ask(Command::KafkaFetch(KafkaFetch { topic, partition, offset })) {
            Answer::KafkaFetch(fetched) => Ok(fetched.messages),
            Answer::Error(error) => Err(error.message),
            other => panic!("{other:?}"),
        }
    }

    /// `cmd_kafka_subscribe`: its sequence, and where it begins.
    #[track_caller]
    pub fn subscribe(&mut self, topic: &str, offset: i64, credit: i64) -> (i64, i64) {
        let wish = KafkaSubscribe { topic: topic.to_owned(), partition: 0, offset, credit };
        match self.ask(Command::KafkaSubscribe(wish)) {
            Answer::KafkaSubscribe(begins) => (self.sequence - 1, begins.offset),
            other => panic!("{other:?}"),
        }
    }

    /// `cmd_credit`
    #[track_caller]
    pub fn credit(&mut self, subscription: i64, messages: i64) {
        self.send(Command::Credit(Credit { subscription, messages }));
    }

    /// `cmd_unsubscribe`
    #[track_caller]
    pub fn unsubscribe(&mut self, subscription: i64) -> Answer {
        self.ask(Command::Unsubscribe(Unsubscribe { subscription }))
    }

    /// Pushed messages of a subscription, until there are `count`.
    #[track_caller]
    pub fn pushed(&mut self, subscription: i64, count: usize) -> Vec<KafkaMessage> {
        let mut messages = Vec::new();
        while messages.len() < count {
            let said = self.next();
            assert_eq!(said.sequence, subscription, "{said:?}");
            match said.answer {
                Some(Answer::KafkaFetch(pushed)) => messages.extend(pushed.messages),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(messages.len(), count);
        messages
    }

    /// A ping command comes back: nothing came before.
    #[track_caller]
    pub fn is_quiet(&mut self) {
        let state = Bytes::from("quiet?");
        let pong = self.ask(Command::Ping(ringway::wire::pubsub::Ping { state: state.clone() }));
        assert!(matches!(&pong, Answer::Pong(pong) if pong.state == state), "{pong:?}");
    }

    /// The goodbye with this code, then the end of the connection.
    #[track_caller]
    pub fn closed_with(&mut self, code: u16) {
        let (first, payload) = self.frame();
        assert_eq!((first, &payload[..]), (0x88, &code.to_be_bytes()[..]));
        self.client.shut();
        self.client.closed();
    }
}
