//! The basic debug mode: which plugins ran for a request, in their order (APISIX plugin.lua
//! `trace_plugin_exec_for_debug`).

/// What has run so far. An exchange has one only while the mode is on.
#[derive(Default)]
pub struct Trace {
    /// Plugin and phase.
    ran: Vec<(&'static str, &'static str)>,
    /// The answer's head has left: what runs from now on is logged.
    told: bool,
}

impl Trace {
    /// A plugin runs in a phase. A body filter runs many times and is noted once.
    pub fn note(&mut self, plugin: &'static str, phase: &'static str) {
        if self.ran.contains(&(plugin, phase)) {
            return;
        }
        self.ran.push((plugin, phase));
        if self.told {
            log::warn!("Apisix-Plugins: {plugin}#{phase}");
        }
    }

    /// The value of `Apisix-Plugins`.
    pub fn tell(&mut self) -> String {
        self.told = true;
        if self.ran.is_empty() {
            return "no plugin".into();
        }
        let ran = self.ran.iter().map(|(plugin, phase)| format!("{plugin}#{phase}"));
        ran.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_their_order_and_each_once() {
        let mut trace = Trace::default();
        trace.note("limit-count", "access");
        trace.note("cors", "header_filter");
        trace.note("limit-count", "access");
        assert_eq!(trace.tell(), "limit-count#access, cors#header_filter");
        assert_eq!(Trace::default().tell(), "no plugin");
    }
}
