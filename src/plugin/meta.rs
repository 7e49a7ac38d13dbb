//! `_meta` of a plugin configuration (APISIX schema_def.lua `plugin_injected_schema`).

use serde_json::Value;

use crate::exchange::Exchange;
use crate::expr::Expr;

/// `_meta`, compiled.
#[derive(Default)]
pub struct Meta {
    /// `disable: true` takes the plugin out of the chain.
    pub disable: bool,
    /// Reorders the list of this object only.
    pub priority: Option<i32>,
    /// The body of an error answer (status ≥ 400) in place of the plugin's own.
    pub error_response: Option<Value>,
    /// The plugin runs only where this holds.
    filter: Option<Box<Expr>>,
}

impl Meta {
    /// Reads `conf._meta`. A filter that cannot be compiled lets the plugin run, as in APISIX
    /// (plugin.lua `meta_filter`), with a warning.
    pub fn of(conf: &Value, plugin: &str) -> Self {
        let Some(meta) = conf.get("_meta") else { return Meta::default() };
        let filter = meta.get("filter").filter(|f| f.as_array().is_some_and(|a| !a.is_empty()));
        Meta {
            disable: is_disabled(conf),
            priority: meta.get("priority").and_then(Value::as_i64).map(|p| p as i32),
            error_response: meta.get("error_response").cloned(),
            filter: filter.and_then(|filter| match Expr::compile(filter) {
                Ok(expr) => Some(Box::new(expr)),
                Err(error) => {
                    log::warn!("failed to get the 'vars' expression: {error} plugin_name: {plugin}");
                    None
                }
            }),
        }
    }

    /// Does `_meta.filter` let the plugin run for this exchange? It is asked in the first phase that the plugin takes
    /// part in, and what it says there goes for all (plugin.lua `meta_filter`).
    pub fn allows(&self, ex: &mut Exchange, slot: u16) -> bool {
        let Some(filter) = &self.filter else { return true };
        if let Some(said) = ex.verdicts.get(slot) {
            return said;
        }
        let holds = filter.eval(ex);
        ex.verdicts.set(slot, holds);
        holds
    }
}

/// `_meta.disable: true`, or `disable: true` as APISIX 2.x wrote it.
pub fn is_disabled(conf: &Value) -> bool {
    let flag = conf.get("_meta").and_then(|meta| meta.get("disable")).or_else(|| conf.get("disable"));
    flag.and_then(Value::as_bool).unwrap_or(false)
}
