//! The spec's JSON Schema, as `docs/pipeline.schema.json` publishes it.

use schemars::generate::SchemaSettings;

use super::raw::RawPipeline;

/// The schema as JSON text.
#[must_use]
pub fn text() -> String {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<RawPipeline>();
    // Serializing a value that is JSON already can't fail.
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}
