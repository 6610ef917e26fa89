//! What the spec takes over from the connectors, in one place.

use std::path::Path;

pub use wasmill_connect::kafka::{KnownProperty, property_of};
pub use wasmill_connect::table::{SinkSpec, SourceSpec};
pub use wasmill_connect::units::{HumanDuration, HumanSize, parse_duration};

use super::node::{Node, Scalar, Value};

/// The settings of connectors that are paths.
const PATH_SETTINGS: [&str; 9] = [
    "path",
    "log",
    "ca_file",
    "cert_file",
    "key_file",
    "credentials_file",
    "nkey_seed_file",
    "password_file",
    "token_file",
];
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
    for settings in names {
        let Value::Map(settings) = &mut settings.node.value else { continue };
        for setting in settings.iter_mut().filter(|s| PATH_SETTINGS.contains(&s.key.as_str())) {
            if setting.node.span.source != 0 {
                continue;
            }
            if let Value::Scalar(Scalar { text, .. }) = &mut setting.node.value
                && !text.is_empty()
                && let Some(joined) = folder.join(&*text).to_str()
            {
                *text = joined.to_owned();
            }
        }
    }
}
