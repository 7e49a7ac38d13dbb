//! An upstream that a plugin chose for one request, in place of its route's.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::model::{Id, Upstream};

/// What a plugin chose.
#[derive(Clone)]
pub enum UpstreamChoice {
    /// An upstream object.
    Object(Id),
    /// One that the plugin brings.
    Own(Rc<OwnUpstream>),
}

/// An upstream that stands in a plugin's configuration: it lives as long as the plugin on its core.
pub struct OwnUpstream {
    /// For logs.
    pub key: Box<str>,
    /// As the operator wrote it.
    pub conf: Arc<Upstream>,
    /// What the core made of it (`live::LiveUpstream`, which this room does not know).
    pub live: RefCell<Option<Rc<dyn Any>>>,
}

impl OwnUpstream {
    /// Not used yet.
    pub fn new(key: &str, conf: Upstream) -> Self {
        OwnUpstream { key: key.into(), conf: Arc::new(conf), live: RefCell::new(None) }
    }
}
