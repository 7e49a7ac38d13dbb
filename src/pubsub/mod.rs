//! Publish and subscribe over WebSocket: sessions of clients, their commands, and the messaging systems behind them
//! (apisix/core/pubsub.lua, apisix/pubsub/kafka.lua). The messages are those of `proto/pubsub.proto`.
//!
//! [`handshake`] makes a WebSocket of a request, [`session`] is the loop of one client, [`subscription`] what it is sent
//! unasked, out of a [`feed`] that all subscribers of a partition share on a core. [`System`] is the list of messaging
//! systems; `docs/how-to/add-a-messaging-system.md` says how to add one.

pub mod feed;
pub mod handshake;
pub mod kafka;
pub mod meter;
pub mod session;
pub mod subscription;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use crate::exchange::Exchange;
use crate::live::LiveUpstream;
use crate::mail::messaging::{Batch, Outcome};
use crate::model::Scheme;
use crate::telemetry::metrics::Metrics;
use crate::wire::pubsub::{Answer, Command};

use subscription::Subscription;

/// What a core shares among its sessions.
#[derive(Default)]
pub struct Hub {
    /// Of Kafka.
    pub kafka: kafka::Hub,
}

/// The messaging system behind a route, for one session.
pub enum System {
    /// `scheme: kafka`
    Kafka(kafka::Kafka),
}

/// What a command brings.
pub enum Reply {
    /// A message.
    Answer(Answer),
    /// Messages, as they were read.
    Batch(Arc<Batch>),
    /// Messages from now on.
    Subscribed(Box<Subscription>),
}

/// A command under way.
pub type Pending = Pin<Box<dyn Future<Output = Outcome<Reply>>>>;

impl System {
    /// That of an upstream; `None` where its scheme is none of a messaging system.
    pub fn of(
        hub: &Rc<Hub>,
        upstream: &LiveUpstream,
        ex: &Exchange,
        metrics: &Arc<Metrics>,
    ) -> Option<System> {
        match upstream.conf.scheme {
            Scheme::Kafka => Some(System::Kafka(kafka::Kafka::new(hub, upstream, ex, metrics))),
            _ => None,
        }
    }

    /// Begins a command; `None` if it is none of this system.
    pub fn begin(&self, command: Command) -> Option<Pending> {
        match self {
            System::Kafka(kafka) => kafka.begin(command),
        }
    }
}
