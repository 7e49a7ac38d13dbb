//! `multiplex`: a client's commands over a connection that others use, too, as long as nothing of theirs stays behind on it.
//! Whole commands only, for others wait behind each; what is read half is shown again.

use super::command::Decoder;
use super::pins::Need;
use super::{Connection, reply};
use crate::limits;
use crate::stream::xrpc::{Answers, Broken, Calls, Pass, To, Verdict};

/// What a client hears of a command whose connection was lost.
const LOST: &[u8] = b"-ERR the connection to the server was lost, the command may have been carried out\r\n";

/// The answer to WAIT.
const NO_WAIT: &[u8] = b"-ERR WAIT is not served where clients share connections\r\n";

impl Answers for reply::Decoder {
    fn read(&mut self, bytes: &[u8], at: &mut usize) -> Result<bool, Broken> {
        Ok(self.read(bytes, at)?.is_some())
    }

    fn is_between(&self) -> bool {
        self.is_between()
    }

    fn lost(&self) -> &'static [u8] {
        LOST
    }
}

impl Connection {
    /// The next bytes need no connection of the client's own: nothing is left on it, and nothing awaited.
    pub(super) fn may_share(&mut self, calls: &Calls) -> bool {
        let is_free = self.pins.is_free() && self.subscribed == [0; 3] && !self.opaque;
        self.apart &= !(is_free && calls.is_empty() && self.commands.is_between());
        !self.apart
    }

    /// Bytes while commands share connections.
    pub(super) fn shared_bytes(&mut self, bytes: &[u8], calls: &mut Calls) -> Result<Verdict, Broken> {
        let (mut at, mut begin) = (0, 0);
        let shared = |bytes: usize, late| Verdict::Pass(Pass { bytes, whole: true, to: To::Shared, late });
        while calls.len() < limits::RPC_CALLS {
            let read = self.commands.read(bytes, &mut at, &mut self.gather);
            let need = self.gather.need;
            let is_ours = matches!(read, Ok(true)) && need.shares();
            if !is_ours {
                // it is shown again
                self.commands = Decoder::default();
                return match read {
                    _ if begin > 0 => Ok(shared(begin, None)),
                    Ok(false) if bytes.len() < limits::REDIS_SHARED_BYTES => Ok(Verdict::More),
                    _ if !calls.is_empty() => Ok(Verdict::Settle),
                    Err(broken) => Err(broken),
                    Ok(true) if need == Need::Quit => {
                        Ok(Verdict::Answer { bytes: at, answer: b"+OK\r\n".to_vec(), last: true })
                    }
                    Ok(true) if need == Need::Wait => {
                        Ok(Verdict::Answer { bytes: at, answer: NO_WAIT.to_vec(), last: false })
                    }
                    Ok(_) => {
                        self.apart = true;
                        self.own_bytes(bytes, calls)
                    }
                };
            }
            self.command_read(calls);
            if let Some(late_ms) = self.late_ms() {
                return Ok(shared(at, Some((begin, late_ms))));
            }
            begin = at;
        }
        Ok(shared(begin, None))
    }
}
