//! Which commands leave something behind on their connection, or keep it waiting: with `multiplex` they need one of their
//! client's own, until what they left is gone.

use crate::limits;

/// What a command needs of its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it shares one.
    #[default]
    Nothing,
    /// It may wait long, or confirms more than once: the connection is its own while it does.
    Alone,
    /// MULTI.
    Transaction,
    /// WATCH.
    Watch,
    /// EXEC, DISCARD.
    Unwind,
    /// UNWATCH.
    Unwatch,
    /// The user, the protocol's version, the database, …: until RESET.
    Session,
    /// RESET.
    Reset,
    /// What RESET does not take away, or is not sure to.
    ForGood,
    /// SELECT, XREAD, XREADGROUP, CLIENT, and SCRIPT or FUNCTION: it depends on arguments.
    Database,
    Stream,
    Group,
    Client,
    Script,
    /// QUIT ends one client's session.
    Quit,
    /// WAIT asks for the replicas of what its own connection has written.
    Wait,
}

impl Need {
    /// Of the command of this name, lower case, as far as the name tells.
    pub fn of(name: &[u8]) -> Need {
        match name {
            // redis-server compares names to their first NUL
            name if name.contains(&0) => Need::ForGood,
            b"multi" => Need::Transaction,
            b"watch" => Need::Watch,
            b"exec" | b"discard" => Need::Unwind,
            b"unwatch" => Need::Unwatch,
            b"auth" | b"hello" => Need::Session,
            b"reset" => Need::Reset,
            b"select" => Need::Database,
            b"xread" => Need::Stream,
            b"xreadgroup" => Need::Group,
            b"client" => Need::Client,
            b"function" | b"script" => Need::Script,
            b"quit" => Need::Quit,
            b"wait" | b"waitaof" => Need::Wait,
            // redis-server closes the connection of what looks like HTTP
            b"host:" | b"post" => Need::ForGood,
            b"asking" | b"monitor" | b"psync" | b"readonly" | b"readwrite" | b"replconf" | b"sync" => {
                Need::ForGood
            }
            b"blmove" | b"blmpop" | b"blpop" | b"brpop" | b"brpoplpush" | b"bzmpop" | b"bzpopmax"
            | b"bzpopmin" | b"debug" | b"psubscribe" | b"punsubscribe" | b"shutdown" | b"ssubscribe"
            | b"subscribe" | b"sunsubscribe" | b"unsubscribe" => Need::Alone,
            _ => Need::Nothing,
        }
    }

    /// Bytes of each argument that tell more.
    pub fn keep(self) -> usize {
        match self {
            Need::Database | Need::Stream | Need::Group | Need::Client | Need::Script => limits::REDIS_NAME,
            _ => 0,
        }
    }

    /// What an argument says; the name is argument 1.
    pub fn argument(&mut self, index: u64, argument: &[u8]) {
        // as redis-server compares them: to the first NUL
        let text = argument.split(|byte| *byte == 0).next().unwrap_or_default();
        let is = |word: &[u8]| text.eq_ignore_ascii_case(word);
        *self = match *self {
            // that of every fresh connection
            Need::Database if argument == b"0" => Need::Nothing,
            Need::Database => Need::Session,
            Need::Stream | Need::Group if is(b"block") => Need::Alone,
            // behind it are keys; a group or a consumer may have this name
            Need::Stream if is(b"streams") => Need::Nothing,
            // libraries introduce themselves so; who it was last is what CLIENT LIST shows of a shared connection
            Need::Client if index == 2 && argument.eq_ignore_ascii_case(b"setinfo") => Need::Nothing,
            Need::Client => Need::ForGood,
            Need::Script if is(b"debug") => Need::ForGood,
            // behind the script that it is to end it would wait
            Need::Script if is(b"kill") => Need::Alone,
            Need::Script => Need::Nothing,
            other => other,
        };
    }

    /// State is gone when it has succeeded.
    pub fn releases(self) -> bool {
        matches!(self, Need::Unwind | Need::Unwatch)
    }

    /// It can go over a shared connection: EXEC and the like find nothing there.
    pub fn shares(self) -> bool {
        matches!(
            self,
            Need::Nothing
                | Need::Unwind
                | Need::Unwatch
                | Need::Reset
                | Need::Database
                | Need::Stream
                | Need::Group
                | Need::Script
        )
    }
}

/// What a client has left behind on its connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pins {
    transaction: bool,
    watch: bool,
    session: bool,
    for_good: bool,
}

impl Pins {
    /// A command was sent.
    pub fn sent(&mut self, need: Need) {
        match need {
            Need::Transaction => self.transaction = true,
            Need::Watch => self.watch = true,
            // without MULTI it is an error, and does nothing
            Need::Unwind if self.transaction => (self.transaction, self.watch) = (false, false),
            Need::Unwatch => self.watch = false,
            Need::Session => self.session = true,
            Need::Reset => (self.transaction, self.watch, self.session) = (false, false, false),
            Need::ForGood | Need::Client => self.for_good = true,
            // its confirmations come inside EXEC's answer
            Need::Alone if self.transaction => self.for_good = true,
            _ => {}
        }
    }

    /// What should have taken state away has failed: who knows what is left.
    pub fn stays(&mut self) {
        self.for_good = true;
    }

    /// Nothing is left behind.
    pub fn is_free(self) -> bool {
        !(self.transaction || self.watch || self.session || self.for_good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(command: &str) -> Need {
        let mut words = command.split(' ');
        let mut need = Need::of(words.next().unwrap_or_default().as_bytes());
        (2..).zip(words).for_each(|(index, word)| need.argument(index, word.as_bytes()));
        need
    }

    #[test]
    fn commands_with_state_do_not_share() {
        for command in [
            "get a",
            "set a 1",
            "ping",
            "exec",
            "discard",
            "unwatch",
            "reset",
            "select",
            "select 0",
            "client setinfo lib-name x",
            "script",
            "script load x",
            "xread count 1",
            "xreadgroup group g c",
            "xread count 1 streams a 0",
            "xread streams block 0",
            "xreadgroup group streams c count 1 streams a >",
            "function list",
            "eval x 0",
            "json.get a",
        ] {
            assert!(need(command).shares(), "{command}");
        }
        for command in [
            "multi",
            "watch a",
            "select 1",
            "select 00",
            "auth x",
            "hello 3",
            "client setname x",
            "client reply off",
            "client",
            "script debug yes",
            "xread block 0 streams a 0",
            "xreadgroup group g c count 1 BLOCK 5 streams a >",
            "xreadgroup group streams c BLOCK 0 streams a >",
            "xread block\0 0 streams a 0",
            "multi\0x",
            "script kill",
            "function KILL",
            "function debug yes",
            "post / HTTP/1.1",
            "host: x",
            "blmove a b left right 0",
            "blmpop 0 1 a left",
            "blpop a 0",
            "brpop a 0",
            "brpoplpush a b 0",
            "bzmpop 0 1 a min",
            "bzpopmax a 0",
            "bzpopmin a 0",
            "debug sleep 1",
            "shutdown",
            "subscribe a",
            "psubscribe a",
            "ssubscribe a",
            "unsubscribe",
            "punsubscribe",
            "sunsubscribe",
            "monitor",
            "sync",
            "psync ? -1",
            "replconf ack 0",
            "quit",
            "wait 1 0",
            "waitaof 1 0 0",
            "asking",
            "readonly",
            "readwrite",
        ] {
            assert!(!need(command).shares(), "{command}");
        }
    }

    #[test]
    fn pins_last_until_their_state_is_gone() {
        let free = |commands: &[&str]| {
            let mut pins = Pins::default();
            commands.iter().for_each(|command| pins.sent(need(command)));
            pins.is_free()
        };
        for (commands, is_free) in [
            (&["get a"][..], true),
            (&["multi"], false),
            (&["watch a", "multi", "exec"], true),
            (&["multi", "discard"], true),
            (&["watch a", "exec"], false),
            (&["watch a", "unwatch"], true),
            (&["watch a", "reset"], true),
            (&["select 1"], false),
            (&["select 1", "select 0"], false),
            (&["hello 3", "auth x", "multi", "reset"], true),
            (&["client"], false),
            (&["client setname x", "reset"], false),
            (&["monitor", "reset"], false),
            (&["blpop a 0"], true),
            (&["multi", "subscribe a", "exec"], false),
        ] {
            assert_eq!(free(commands), is_free, "{commands:?}");
        }
    }
}
