//! What the spec takes over from the connectors, in one place.

use std::path::Path;

pub use wasmill_connect::codec::CodecSpec;
pub use wasmill_connect::kafka::{KnownProperty, property_of};
pub use wasmill_connect::table::{SinkSpec, SourceSpec};
pub use wasmill_connect::units::{HumanDuration, HumanSize, parse_duration};

use super::node::{Node, Scalar, Value};

/// The settings of connectors that are paths.
const PATH_SETTINGS: [&str; 13] = [
    "path",
    "schema_file",
    "reader_schema_file",
    "descriptor_file",
    "log",
    "ca_file",
    "cert_file",
    "certificate_file",
    "key_file",
    "credentials_file",
    "nkey_seed_file",
    "password_file",
    "token_file",
];
/// The settings of connectors that have settings below them.
const GROUPS: [&str; 4] = ["registry", "security", "tls", "sasl"];
/// The keys that hold connectors.
const CONNECTOR_KEYS: [&str; 5] = ["source", "sources", "sink", "sinks", "dead_letter"];

/// The names of the sinks.
pub fn sink_names() -> Vec<&'static str> {
    SinkSpec::NAMES.to_vec()
}

/// Makes the connectors' relative paths start from `folder`: those that stand in the file itself
/// (`source` 0), not those that the environment gives.
pub fn resolve_paths(root: &mut Node, folder: &Path) {
    let Value::Map(entries) = &mut root.value else { return };
    if folder == Path::new(".") {
        return;
    }
    for entry in entries.iter_mut().filter(|e| CONNECTOR_KEYS.contains(&e.key.as_str())) {
        match &mut entry.node.value {
            Value::List(items) => items.iter_mut().for_each(|item| resolve_connector(item, folder)),
            _ => resolve_connector(&mut entry.node, folder),
        }
    }
}

fn resolve_connector(node: &mut Node, folder: &Path) {
    let Value::Map(names) = &mut node.value else { return };
    for entry in names {
        // A codec is named as a connector is.
        match entry.key.as_str() {
            "codec" => resolve_connector(&mut entry.node, folder),
            _ => resolve_settings(&mut entry.node, folder),
        }
    }
}

fn resolve_settings(node: &mut Node, folder: &Path) {
    let Value::Map(settings) = &mut node.value else { return };
    for setting in settings {
        let is_path = PATH_SETTINGS.contains(&setting.key.as_str()) && setting.node.span.source == 0;
        match &mut setting.node.value {
            Value::Scalar(Scalar { text, .. }) if is_path && !text.is_empty() => {
                if let Some(joined) = folder.join(&*text).to_str() {
                    *text = joined.to_owned();
                }
            }
            // As `security.tls`. The names of `headers` and `properties` are others'.
            Value::Map(_) if GROUPS.contains(&setting.key.as_str()) => {
                resolve_settings(&mut setting.node, folder);
            }
            _ => {}
        }
    }
}
