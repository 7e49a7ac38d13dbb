//! What holds for every plugin.

use serde_json::Value;

use super::{ALL, registry};
use crate::plugin::SchemaType;

#[test]
fn the_list_is_sorted_and_its_schemas_compile() {
    let registry = registry();
    for pair in ALL.windows(2) {
        let order = pair[1].priority.cmp(&pair[0].priority).then(pair[0].name.cmp(pair[1].name));
        assert!(order.is_lt(), "{} stands before {}", pair[0].name, pair[1].name);
    }
    for spec in ALL {
        for kind in [SchemaType::Plain, SchemaType::Consumer, SchemaType::Metadata] {
            registry.get(spec.name).unwrap().schema(kind);
        }
        assert_eq!(spec.auth, spec.consumer_schema.is_some(), "{}", spec.name);
    }
}

/// Each JSON example in a plugin's page is an object with `plugins`; a `username` makes it a consumer.
#[test]
fn the_examples_of_every_page_are_accepted() {
    let registry = registry();
    for spec in ALL {
        let examples = examples(spec.name);
        let mut seen = 0;
        for example in &examples {
            let object: Value =
                serde_json::from_str(example).unwrap_or_else(|e| panic!("{}: {e}\n{example}", spec.name));
            let kind = match object.get("username") {
                Some(_) => SchemaType::Consumer,
                None => SchemaType::Plain,
            };
            for (name, conf) in object["plugins"].as_object().unwrap() {
                let checked = registry.get(name).unwrap().check(&mut conf.clone(), kind);
                assert_eq!(checked, Ok(()), "{}: {name} in\n{example}", spec.name);
                seen += usize::from(*name == *spec.name);
            }
        }
        assert!(seen > 0, "the page of {} has no example of it", spec.name);
    }
}

/// The JSON blocks in the `//!` text of a plugin's file or folder.
fn examples(name: &str) -> Vec<String> {
    let stem = format!("{}/src/plugins/{}", env!("CARGO_MANIFEST_DIR"), name.replace('-', "_"));
    let source = std::fs::read_to_string(format!("{stem}.rs"))
        .or_else(|_| std::fs::read_to_string(format!("{stem}/mod.rs")))
        .unwrap_or_else(|error| panic!("{stem}: {error}"));
    let page: Vec<&str> = source.lines().map_while(|line| line.strip_prefix("//!")).collect();
    page.join("\n")
        .split("```json")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or("").into())
        .collect()
}
