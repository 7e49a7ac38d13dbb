//! What holds for every plugin.

mod options;

use serde_json::Value;

use super::{ALL, registry};
use crate::limits;
use crate::plugin::{SchemaType, Spec};

#[test]
fn a_chain_of_all_plugins_leaves_the_numbers_of_global_rules_alone() {
    assert!(ALL.len() < usize::from(limits::GLOBAL_SLOTS), "{}", ALL.len());
}

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
        assert!(spec.auth || spec.consumer_schema.is_none(), "{}", spec.name);
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

/// The plugin that only stream routes have.
const STREAM_ONLY: &Spec = &super::mqtt_proxy::SPEC;

/// `docs/plugins/NAME.md` is the `//!` text of the plugin and the table of its schema, so that both are written once. After
/// a change:
/// `RINGWAY_WRITE_DOCS=1 cargo test --lib plugins::tests::docs`.
#[test]
fn docs_are_the_pages_of_the_sources() {
    let write = std::env::var_os("RINGWAY_WRITE_DOCS").is_some();
    let folder = format!("{}/docs/plugins", env!("CARGO_MANIFEST_DIR"));
    let mut stale = Vec::new();
    for spec in ALL.iter().chain([&STREAM_ONLY]) {
        let file = format!("{folder}/{}.md", spec.name);
        let page = page(spec.name);
        let doc = format!("# {}\n\n{page}\n{}", spec.name, options::sections(spec, &page));
        if std::fs::read_to_string(&file).is_ok_and(|now| now == doc) {
            continue;
        }
        match write {
            true => std::fs::write(&file, doc).unwrap_or_else(|error| panic!("{file}: {error}")),
            false => stale.push(spec.name),
        }
    }
    assert!(stale.is_empty(), "docs/plugins of {stale:?} differ from the sources: see this test");
    for file in std::fs::read_dir(&folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let mut all = ALL.iter().chain([&STREAM_ONLY]);
        let known = name.strip_suffix(".md").is_some_and(|name| all.any(|spec| spec.name == name));
        assert!(known, "docs/plugins/{name} is the page of no plugin");
    }
}

/// The JSON blocks of a plugin's page.
pub(super) fn examples(name: &str) -> Vec<String> {
    let blocks = page(name);
    blocks.split("```json").skip(1).map(|rest| rest.split("```").next().unwrap_or("").into()).collect()
}

/// The `//!` text of a plugin's file or folder.
fn page(name: &str) -> String {
    let stem = format!("{}/src/plugins/{}", env!("CARGO_MANIFEST_DIR"), name.replace('-', "_"));
    let source = std::fs::read_to_string(format!("{stem}.rs"))
        .or_else(|_| std::fs::read_to_string(format!("{stem}/mod.rs")))
        .unwrap_or_else(|error| panic!("{stem}: {error}"));
    let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    let page: Vec<&str> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    page.join("\n")
}
