//! What every plugin is that makes an entry of a request: it gathers what the entry needs on the way, and hands it on
//! in the log phase. Plugins differ in where it goes.

use std::rc::Rc;

use super::log_entry::LogEntry;
use crate::exchange::{BodyPiece, Exchange};
use crate::plugin::{Built, Host, Phases, Plugin, Step};

struct Logger<T> {
    entry: LogEntry,
    hand_on: T,
}

/// A plugin that calls `hand_on` in the log phase, with what makes the entry of the exchange.
pub fn plugin(entry: LogEntry, hand_on: impl Fn(&LogEntry, &mut Exchange) + 'static) -> Built {
    Ok(Rc::new(Logger { entry, hand_on }))
}

impl<T: Fn(&LogEntry, &mut Exchange)> Plugin for Logger<T> {
    fn phases(&self) -> Phases {
        self.entry.phases()
    }

    fn access<'a>(&'a self, ex: &'a mut Exchange, _: &'a Host) -> Step<'a> {
        self.entry.access(ex)
    }

    fn body_filter(&self, ex: &mut Exchange, piece: &mut BodyPiece, slot: u16) {
        self.entry.body_filter(ex, piece, slot);
    }

    fn log(&self, ex: &mut Exchange, _: &Host) {
        (self.hand_on)(&self.entry, ex);
    }
}
