//! Objects that live below others.

use super::*;

#[test]
fn decorations_belong_to_their_service() {
    const AT: &str = "/services/s/graphql_cost_decorations";
    on_embedded(|state| async move {
        run(
            &state,
            &[
                (
                    "PUT",
                    "/services/s/graphql_cost_decorations/d",
                    r#"{"field_path":"Query.a"}"#,
                    404,
                    json!({"error_msg": "service not found"}),
                ),
                ("PUT", "/services/s", r#"{"upstream":{"nodes":{"127.0.0.1:80":1}}}"#, 201, json!({})),
                ("GET", AT, "", 404, json!({"message": "Key not found"})),
                (
                    "PUT",
                    "/services/s/graphql_cost_decorations/d",
                    r#"{"field_path":"Query.a"}"#,
                    201,
                    json!({"value": {"service_id": "s", "id": "d"}}),
                ),
                (
                    "PUT",
                    "/services/s/graphql_cost_decorations/d",
                    r#"{"field_path":"Query.a","service_id":"t"}"#,
                    400,
                    json!({"error_msg": "wrong service_id, it is taken from the path"}),
                ),
                (
                    "POST",
                    AT,
                    r#"{"field_path":"Query.a"}"#,
                    400,
                    json!({"error_msg": "field_path Query.a is already decorated on this service by [d]"}),
                ),
                (
                    "PUT",
                    "/services/s/graphql_cost_decorations/d",
                    r#"{"field_path":"Query.a"}"#,
                    200,
                    json!({"value": {"id": "d"}}),
                ),
                ("POST", AT, r#"{"field_path":"Query.b"}"#, 201, json!({})),
                ("PUT", "/services/s", r#"{"upstream":{"nodes":{"127.0.0.1:80":2}}}"#, 200, json!({})),
                ("GET", AT, "", 200, json!({"total": 2})),
                ("GET", "/services", "", 200, json!({"total": 1})),
                (
                    "PATCH",
                    "/services/s/graphql_cost_decorations/d",
                    r#"{"service_id":"s"}"#,
                    400,
                    json!({"error_msg": "service_id can not be patched"}),
                ),
                (
                    "PATCH",
                    "/services/s/graphql_cost_decorations/d",
                    r#"{"mul_value":7}"#,
                    200,
                    json!({"value": {"mul_value": 7}}),
                ),
                ("DELETE", "/services/s", "", 200, json!({})),
                ("GET", AT, "", 404, json!({"message": "Key not found"})),
            ],
        )
        .await;
    });
}
