//! Of what operators write: how large and deep it may be, and what is made of it.

/// Points on the hash ring of one `chash` upstream. 160 a unit of weight: weights that sum to 3,000 and
/// have no common divisor fit unchanged. 8 bytes a point, so 4 MB a core at most.
/// Reached by: src/upstream/balancer/chash.rs huge_weights_stay_within_the_bound_and_zero_weights_pick_none.
pub const CHASH_POINTS: u64 = 1 << 19;

/// Levels of JSON Schema, in the schema and in a value checked by it: APISIX's deepest schema has 9; a level
/// costs about 1 KiB of stack in each of two functions, so 128 stay far from a 2 MiB thread stack.
/// Reached by: src/model/schema/tests.rs endless_schemas_end.
pub const SCHEMA_DEPTH: usize = 128;

/// Rules that one check may look at, as many as 32 MiB of digits in an array: branches may double them at each level.
/// Reached by: src/model/schema/tests.rs branches_that_double_at_each_level_end.
pub const SCHEMA_STEPS: usize = 1 << 24;

/// Sub-schemas of one schema: a plugin's largest has under 200, users write their own in request-validation.
/// Reached by: src/model/schema/tests.rs endless_schemas_end.
pub const SCHEMA_NODES: usize = 65_536;

/// How deep a condition (`vars` and its like) may nest: JSON itself is read to 128, and no hand-written
/// condition passes a tenth of this; compiling and evaluating recurse.
/// Reached by: src/expr/condition/tests.rs error_texts.
pub const EXPR_DEPTH: usize = 64;

/// Steps a regular expression of a condition or a schema may take (PCRE's LIMIT_MATCH, whose default is 10,000,000):
/// about 10 ms of a core.
/// Reached by: src/expr/condition/tests.rs a_runaway_pattern_gives_up.
pub const REGEX_STEPS: u32 = 1_000_000;

/// How deep a proto object may nest: hand-written ones pass 5 nowhere, and their parser recurses without a bound.
/// Reached by: src/model/check/proto.rs a_proto_that_nests_without_end_is_refused_and_one_of_some_depth_is_not.
pub const PROTO_DEPTH: usize = 32;

/// How deep the brackets of a JSONPath (`post_arg.*`) may nest: a filter with a function in parentheses has 3. Its parser
/// recurses without a bound of its own, and takes twice as long for each filter inside another.
/// Reached by: src/model/check/tests.rs a_json_path_that_nests_without_end_is_refused.
pub const JSON_PATH_DEPTH: usize = 6;

/// Admin key letters, as many as APISIX makes: 52^32 is 182 bits.
/// Reached by: src/config/tests.rs an_empty_key_is_made_once_and_only_it_changes_in_the_file.
pub const ADMIN_KEY_LETTERS: usize = 32;

/// How deep YAML may nest: APISIX's own files reach 9; reading and dropping a tree recurse.
/// Reached by: src/config/yaml.rs errors_carry_their_line_and_floods_end.
pub const CONFIG_DEPTH: usize = 64;

/// Values that the aliases of one YAML file may expand to: an apisix.yaml of 100,000 routes without aliases
/// is not touched, nested aliases that grow without end are.
/// Reached by: src/config/yaml.rs errors_carry_their_line_and_floods_end.
pub const CONFIG_ALIAS_NODES: usize = 100_000;

/// Plans that a route keeps for different consumers; beyond it they are built anew.
/// Reached by: tests/full.rs more_consumers_than_a_route_remembers.
pub const JOINED_PLANS: usize = 1024;

/// Numbers of body-filter state below this are the route's chain's, the others the global rules'.
/// A chain has a plugin once, and there are far fewer plugins.
/// Reached by: src/plugins/tests/mod.rs a_chain_of_all_plugins_leaves_the_numbers_of_global_rules_alone.
pub const GLOBAL_SLOTS: u16 = 256;

/// A GraphQL document that conditions look into, bytes, unless `graphql.max_size` says otherwise: APISIX's default.
/// Reached by: tests/full.rs a_longer_graphql_document_is_not_looked_into.
pub const GRAPHQL_BYTES: u64 = 1 << 20;

/// Ports of one `stream_proxy` entry: each is a socket on each core. 4096 are far more than a range that anybody
/// serves, and with 64 cores still below what a process may open.
/// Reached by: src/config/read_stream.rs a_range_has_so_many_ports_at_most.
pub const STREAM_PORTS: usize = 4096;
