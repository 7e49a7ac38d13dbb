//! What decorations of a GraphQL schema have beyond other objects: each belongs to a service, and no two of a
//! service decorate the same path (apisix/admin/graphql_cost_decorations.lua).

use hyper::Method;
use serde_json::Value;

use super::AdminState;
use super::message::AdminResponse;
use super::resource::Call;
use crate::model::id_text;

/// Checks a write, and notes the service in the object. The error is the answer.
pub async fn check(call: &Call<'_>, method: &Method, conf: &mut Option<Value>) -> Result<(), AdminResponse> {
    let refused = |why: &str| Err(AdminResponse::error(400, why));
    let Some(service) = call.target.parent.as_deref().filter(|service| !service.is_empty()) else {
        return refused("missing service id");
    };
    if !matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
        return Ok(());
    }
    let Some(Value::Object(members)) = conf else { return refused("invalid configuration") };
    let written = members.get("service_id").filter(|id| !id.is_null());
    if *method == Method::PATCH {
        if written.is_some() {
            return refused("service_id can not be patched");
        }
    } else {
        if written.is_some_and(|id| id_text(id).as_deref() != Some(service)) {
            return refused("wrong service_id, it is taken from the path");
        }
        if call.state.store.get(&format!("/services/{service}")).await?.is_none() {
            return Err(AdminResponse::error(404, "service not found"));
        }
    }
    if let Some(path) = members.get("field_path").and_then(Value::as_str) {
        unique(call, service, path).await?;
    }
    if *method != Method::PATCH {
        members.insert("service_id".into(), service.into());
    }
    Ok(())
}

/// The list and the write that follows are two steps: writers at the same moment can both pass, as in APISIX.
async fn unique(call: &Call<'_>, service: &str, path: &str) -> Result<(), AdminResponse> {
    for entry in call.state.store.list(&call.target.directory).await?.entries {
        let Ok(other) = serde_json::from_slice::<Value>(&entry.value) else { continue };
        let id = other.get("id").and_then(id_text);
        if other["field_path"] == path
            && other["service_id"] == service
            && id.as_deref() != call.target.id.as_deref()
        {
            let id = id.unwrap_or_default();
            let why = format!("field_path {path} is already decorated on this service by [{id}]");
            return Err(AdminResponse::error(400, why));
        }
    }
    Ok(())
}

/// Deletes the decorations of a service that is gone. A failure leaves what nobody can reach: it is reported.
pub async fn forget(state: &AdminState, service: Option<&str>) {
    let Some(service) = service else { return };
    if let Err(error) = state.store.delete_dir(&format!("/services/{service}/graphql_cost_decorations")).await
    {
        log::error!("failed to delete the graphql cost decorations of service [{service}]: {error}");
    }
}
