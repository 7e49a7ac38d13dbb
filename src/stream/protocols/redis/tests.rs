//! Dialogues of a client with a server, as sessions see them.

use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::stream::xrpc::To;

struct Dialogue {
    session: Box<dyn Session>,
    calls: Calls,
}

impl Dialogue {
    fn new(conf: &Value) -> Dialogue {
        let wants = Wants { calls: true, variables: true };
        let session = (SPEC.build)(conf).map_or_else(|error| panic!("{error}"), |redis| redis.open(wants));
        Dialogue { session, calls: Calls::new(wants, Instant::now()) }
    }

    /// Sends commands; gives the delay and where it begins.
    fn send(&mut self, bytes: &[u8]) -> Option<(usize, u32)> {
        match self.session.client_bytes(bytes, &mut self.calls, &[]) {
            Ok(Verdict::Pass(pass)) => pass.late,
            other => panic!("{other:?}"),
        }
    }

    /// Answers; gives the lines of the calls that have ended with it.
    fn answer(&mut self, bytes: &[u8]) -> Vec<String> {
        let passed = self.session.upstream_bytes(0, bytes, &mut self.calls);
        assert!(matches!(passed, Ok(Verdict::Pass(Pass { bytes: n, .. })) if n == bytes.len()), "{passed:?}");
        let line = |call: Call| String::from_utf8_lossy(&call.vars[1].1).into_owned();
        self.calls.take_ended().into_iter().map(line).collect()
    }
}

#[test]
fn pipelined_commands_end_in_their_order() {
    let mut dialogue = Dialogue::new(&json!({}));
    dialogue.send(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\r\n*1\r\n$5\r\nMULTI\r\n");
    assert_eq!(dialogue.answer(b"$1\r\n1\r\n+PO"), ["get a"]);
    assert_eq!(dialogue.answer(b"NG\r\n+OK\r\n"), ["ping", "multi"]);
    assert!(dialogue.calls.is_empty());
}

#[test]
fn long_values_are_cut_in_the_log() {
    let mut dialogue = Dialogue::new(&json!({}));
    let value = "v".repeat(300);
    dialogue.send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$300\r\n{value}\r\n").as_bytes());
    assert_eq!(dialogue.answer(b"+OK\r\n"), [format!("set k {}...(300 bytes)", &value[..128])]);
}

#[test]
fn a_line_of_very_many_values_ends_somewhere() {
    let mut dialogue = Dialogue::new(&json!({}));
    let values = format!("$9\r\n{}\r\n", "v".repeat(9)).repeat(1000);
    dialogue.send(format!("*1001\r\n$3\r\nDEL\r\n{values}").as_bytes());
    let lines = dialogue.answer(b":0\r\n");
    let most = limits::REDIS_LOGGED_LINE..limits::REDIS_LOGGED_LINE + 10;
    assert!(lines.len() == 1 && most.contains(&lines[0].len()), "{}", lines[0].len());
}

#[test]
fn a_client_may_have_so_many_commands_under_way() {
    let mut dialogue = Dialogue::new(&json!({}));
    let pings = b"PING\r\n".repeat(limits::RPC_CALLS + 5);
    let passed = dialogue.session.client_bytes(&pings, &mut dialogue.calls, &[]);
    let bytes = 6 * limits::RPC_CALLS;
    assert!(matches!(&passed, Ok(Verdict::Pass(pass)) if pass.bytes == bytes && pass.whole), "{passed:?}");
    assert_eq!(dialogue.calls.len(), limits::RPC_CALLS);
}

#[test]
fn messages_are_no_replies() {
    let mut dialogue = Dialogue::new(&json!({}));
    dialogue.send(b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nb\r\n");
    assert!(dialogue.answer(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n").is_empty());
    assert_eq!(dialogue.answer(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"), ["subscribe a b"]);
    dialogue.send(b"*1\r\n$4\r\nPING\r\n");
    assert!(dialogue.answer(b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n").is_empty());
    assert_eq!(dialogue.answer(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"), ["ping"]);
    dialogue.send(b"*1\r\n$11\r\nUNSUBSCRIBE\r\n*1\r\n$4\r\nPING\r\n");
    assert!(dialogue.answer(b"*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n").is_empty());
    assert_eq!(dialogue.answer(b"*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n"), ["unsubscribe"]);
    assert_eq!(dialogue.answer(b"+PONG\r\n"), ["ping"]);
    // an array that looks like a message, when nobody subscribes
    dialogue.send(b"*2\r\n$4\r\nMGET\r\n$1\r\nx\r\n");
    assert_eq!(dialogue.answer(b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n"), ["mget x"]);
}

#[test]
fn resp3_pushes_between_replies() {
    let mut dialogue = Dialogue::new(&json!({}));
    dialogue
        .send(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n");
    assert_eq!(dialogue.answer(b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n"), ["hello 3"]);
    assert_eq!(dialogue.answer(b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"), ["subscribe a"]);
    assert!(dialogue.answer(b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n").is_empty());
    assert_eq!(dialogue.answer(b"+PONG\r\n"), ["ping"]);
}

#[test]
fn resp3_arrays_are_replies_whatever_they_begin_with() {
    let mut dialogue = Dialogue::new(&json!({}));
    let array = |text: &str| format!("*3\r\n${}\r\n{text}\r\n$1\r\na\r\n:7\r\n", text.len()).into_bytes();
    dialogue.send(b"HELLO 3\r\nSUBSCRIBE a\r\nLRANGE x 0 -1\r\nLRANGE x 0 -1\r\nUNSUBSCRIBE a\r\n");
    assert_eq!(dialogue.answer(b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n"), ["hello 3"]);
    assert_eq!(dialogue.answer(b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"), ["subscribe a"]);
    assert_eq!(dialogue.answer(&array("message")), ["lrange x 0 -1"]);
    assert_eq!(dialogue.answer(&array("subscribe")), ["lrange x 0 -1"]);
    assert_eq!(dialogue.answer(b">3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n"), ["unsubscribe a"]);
    // a HELLO that fails changes nothing; RESET and HELLO 2 go back, where arrays may be pushed
    for (back, reply) in [("RESET", "+RESET\r\n"), ("HELLO 2", "*2\r\n$6\r\nserver\r\n$5\r\nredis\r\n")] {
        dialogue.send(b"HELLO 3\r\nHELLO 4\r\nSUBSCRIBE a\r\n");
        dialogue.answer(b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n-NOPROTO no\r\n");
        dialogue.answer(b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
        dialogue.send(b"LRANGE x 0 -1\r\n");
        assert_eq!(dialogue.answer(&array("message")), ["lrange x 0 -1"]);
        dialogue.send(format!("{back}\r\nSUBSCRIBE a\r\n").as_bytes());
        assert_eq!(dialogue.answer(reply.as_bytes()).len(), 1);
        assert_eq!(dialogue.answer(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"), ["subscribe a"]);
        assert!(dialogue.answer(&array("message")).is_empty());
        dialogue.send(b"RESET\r\n");
        assert_eq!(dialogue.answer(b"+RESET\r\n"), ["reset"]);
    }
    // nobody saw the answer to this HELLO, but what is pushed tells
    dialogue.send(b"CLIENT REPLY OFF\r\nHELLO 3\r\nCLIENT REPLY ON\r\nSUBSCRIBE a\r\nLRANGE x 0 -1\r\n");
    dialogue.answer(b"+OK\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    assert_eq!(dialogue.answer(&array("message")), ["lrange x 0 -1"]);
}

#[test]
fn silent_commands_and_monitors() {
    let mut dialogue = Dialogue::new(&json!({}));
    dialogue
        .send(b"CLIENT REPLY SKIP\r\nSET a 1\r\nGET a\r\nCLIENT REPLY OFF\r\nGET b\r\nCLIENT REPLY ON\r\n");
    let silent = dialogue.answer(b"$1\r\n1\r\n");
    assert_eq!(silent, ["client REPLY SKIP", "set a 1", "client REPLY OFF", "get b", "get a"]);
    assert_eq!(dialogue.answer(b"+OK\r\n"), ["client REPLY ON"]);
    dialogue.send(b"MONITOR\r\n");
    assert_eq!(dialogue.answer(b"+OK\r\n"), ["monitor"]);
    dialogue.send(b"PING\r\n");
    assert!(dialogue.answer(b"+1339518083.107412 [0 127.0.0.1:60866] \"keys\" \"*\"\r\n").is_empty());
    assert_eq!(dialogue.answer(b"+PONG\r\n"), ["ping"]);
}

#[test]
fn only_client_reply_silences_and_reset_ends_it() {
    let mut dialogue = Dialogue::new(&json!({}));
    dialogue.send(b"CLIENT TRACKING OFF\r\nCLIENT SETNAME off\r\nSET reply off\r\nGET a\r\n");
    assert!(dialogue.answer(b"").is_empty(), "all are answered");
    assert_eq!(
        dialogue.answer(b"+OK\r\n+OK\r\n+OK\r\n$1\r\n1\r\n"),
        ["client TRACKING OFF", "client SETNAME off", "set reply off", "get a"]
    );
    dialogue.send(b"CLIENT REPLY OFF\r\nGET a\r\nRESET\r\nGET b\r\n");
    assert_eq!(dialogue.answer(b""), ["client REPLY OFF", "get a"]);
    assert_eq!(dialogue.answer(b"+RESET\r\n$1\r\n1\r\n"), ["reset", "get b"]);
    dialogue.send(b"CLIENT REPLY SKIP\r\nRESET\r\nGET c\r\n");
    assert_eq!(dialogue.answer(b""), ["client REPLY SKIP", "reset"], "what is skipped may be a RESET");
    assert_eq!(dialogue.answer(b"$1\r\n1\r\n"), ["get c"]);
}

#[test]
fn behind_a_reset_all_that_comes_are_replies() {
    let mut dialogue = Dialogue::new(&json!({}));
    dialogue.send(b"MONITOR\r\nRESET\r\nEVAL a\r\n");
    assert_eq!(dialogue.answer(b"+OK\r\n+1339518083.1 \"ping\"\r\n+RESET\r\n"), ["monitor", "reset"]);
    assert_eq!(dialogue.answer(b"+1339518083.1 \"ping\"\r\n"), ["eval a"]);
    let message = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n";
    dialogue.send(b"SUBSCRIBE a\r\nRESET\r\nMGET x\r\n");
    assert_eq!(dialogue.answer(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"), ["subscribe a"]);
    assert!(dialogue.answer(message).is_empty());
    assert_eq!(dialogue.answer(b"+RESET\r\n"), ["reset"]);
    assert_eq!(dialogue.answer(message), ["mget x"]);
}

#[test]
fn a_fault_holds_its_command_alone_back() {
    let conf = json!({"faults": [{"commands": ["get"], "key": "b", "delay": 5}, {"commands": ["PING"], "delay": 0.5}]});
    let mut dialogue = Dialogue::new(&conf);
    let (a, b) = (b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", b"*2\r\n$3\r\nget\r\n$1\r\nb\r\n");
    assert_eq!(dialogue.send(a), None);
    assert_eq!(dialogue.send(&[&a[..], &b[..], &a[..]].concat()), Some((a.len(), 5000)));
    assert_eq!(dialogue.send(a), None, "what was left behind is shown again");
    assert_eq!(dialogue.send(b"PING\r\n"), Some((0, 500)));
    assert_eq!(dialogue.send(&b[..18]), None);
    assert_eq!(dialogue.send(&b[18..]), Some((0, 5000)), "its end, at least, waits");
}

#[test]
fn what_is_whole_before_broken_bytes_goes_on() {
    let mut dialogue = Dialogue::new(&json!({}));
    let bytes = b"PING\r\n*1\r\n:1\r\n";
    let first = dialogue.session.client_bytes(bytes, &mut dialogue.calls, &[]);
    assert_eq!(first, Ok(Pass::whole(6)));
    let Err(broken) = dialogue.session.client_bytes(&bytes[6..], &mut dialogue.calls, &[]) else { panic!() };
    assert_eq!(dialogue.session.refusal(&broken), b"-ERR Protocol error: expected '$', got ':'\r\n");
}

#[test]
fn replication_is_no_dialogue() {
    let mut dialogue = Dialogue::new(&json!({}));
    dialogue.send(b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n");
    assert_eq!(dialogue.answer(b"+FULLRESYNC x 0\r\n$5\r\nREDIS\0\0garbage"), ["psync ? -1"]);
    dialogue.send(b"whatever \xff");
}

/// What becomes of bytes of a client of a route with `multiplex`: how many, and where they go.
fn shared(dialogue: &mut Dialogue, bytes: &[u8]) -> Result<Verdict, Broken> {
    dialogue.session.client_bytes(bytes, &mut dialogue.calls, &[])
}

fn passed(bytes: usize, to: To) -> Result<Verdict, Broken> {
    Ok(Verdict::Pass(Pass { bytes, whole: true, to, late: None }))
}

#[test]
fn commands_share_until_one_needs_a_connection_of_its_own() {
    let mut dialogue = Dialogue::new(&json!({"multiplex": true}));
    let bytes = b"GET a\r\nGET b\r\nMULTI\r\nEXEC\r\n";
    assert_eq!(shared(&mut dialogue, bytes), passed(14, To::Shared));
    assert_eq!(shared(&mut dialogue, &bytes[14..]), Ok(Verdict::Settle));
    assert_eq!(dialogue.answer(b"$-1\r\n$-1\r\n").len(), 2);
    assert_eq!(shared(&mut dialogue, &bytes[14..]), passed(13, To::Own));
    assert_eq!(shared(&mut dialogue, b"GET c\r\n"), passed(7, To::Own), "in its turn");
    assert_eq!(dialogue.answer(b"+OK\r\n*0\r\n$-1\r\n").len(), 3);
    assert_eq!(shared(&mut dialogue, b"GET c\r\n"), passed(7, To::Shared));
    dialogue.answer(b"$-1\r\n");
    // without a transaction an EXEC fails, and nothing is left
    assert_eq!(shared(&mut dialogue, b"EXEC\r\n"), passed(6, To::Shared));
    dialogue.answer(b"-ERR EXEC without MULTI\r\n");
    assert_eq!(shared(&mut dialogue, b"GET c\r\n"), passed(7, To::Shared));
    dialogue.answer(b"$-1\r\n");
    // nor behind one that gives its transaction up
    assert_eq!(shared(&mut dialogue, b"MULTI\r\nNONE\r\nEXEC\r\n"), passed(19, To::Own));
    dialogue.answer(b"+OK\r\n-ERR unknown command\r\n-EXECABORT Transaction discarded\r\n");
    assert_eq!(shared(&mut dialogue, b"GET c\r\n"), passed(7, To::Shared));
    dialogue.answer(b"$-1\r\n");
    // a DISCARD that fails leaves the transaction open
    assert_eq!(shared(&mut dialogue, b"MULTI\r\nDISCARD x\r\n"), passed(18, To::Own));
    dialogue.answer(b"+OK\r\n-ERR wrong number of arguments\r\n");
    assert_eq!(shared(&mut dialogue, b"GET c\r\n"), passed(7, To::Own));
}

#[test]
fn what_is_half_read_waits_or_goes_alone() {
    let mut dialogue = Dialogue::new(&json!({"multiplex": true}));
    let bytes = b"GET a\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n";
    for cut in 8..bytes.len() - 1 {
        assert_eq!(shared(&mut dialogue, &bytes[..cut]), passed(7, To::Shared), "{cut}");
        assert_eq!(shared(&mut dialogue, &bytes[7..cut]), Ok(Verdict::More), "{cut}");
    }
    assert_eq!(shared(&mut dialogue, &bytes[7..]), passed(bytes.len() - 7, To::Shared));
    let begun = dialogue.calls.len();
    dialogue.answer(&b"+OK\r\n".repeat(begun));
    let big =
        [&b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$99999\r\n"[..], &[b'x'; limits::REDIS_SHARED_BYTES]].concat();
    let Ok(Verdict::Pass(Pass { bytes, whole: false, to: To::Own, .. })) = shared(&mut dialogue, &big) else {
        panic!("it streams on a connection of its own");
    };
    assert_eq!(bytes, big.len());
    // broken bytes are told of when all before them is answered
    let mut dialogue = Dialogue::new(&json!({"multiplex": true}));
    assert_eq!(shared(&mut dialogue, b"GET a\r\n*1\r\n:1\r\n"), passed(7, To::Shared));
    assert_eq!(shared(&mut dialogue, b"*1\r\n:1\r\n"), Ok(Verdict::Settle));
    dialogue.answer(b"$-1\r\n");
    assert!(shared(&mut dialogue, b"*1\r\n:1\r\n").is_err());
}
