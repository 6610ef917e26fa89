//! `wasmill connectors`.

use std::fmt::Write as _;

use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::Value;
use wasmill_connect::table::{SinkSpec, SourceSpec};

use super::args;
use super::exit::Stop;
use super::{print, print_json};

#[derive(Debug, Serialize)]
struct Connector {
    name: String,
    role: &'static str,
    about: String,
    settings: Vec<Setting>,
}

#[derive(Debug, Serialize)]
struct Setting {
    name: String,
    required: bool,
    about: String,
}

/// Lists the connectors.
///
/// # Errors
/// When nobody reads the list.
pub fn run(args: &args::Connectors) -> Result<(), Stop> {
    let mut all = list::<SourceSpec>("source");
    all.extend(list::<SinkSpec>("sink"));
    if args.json {
        return print_json(&all);
    }
    let mut text = String::new();
    for c in &all {
        let _ = writeln!(text, "{} {}\n  {}", c.role, c.name, c.about);
        for s in &c.settings {
            let required = if s.required { " (required)" } else { "" };
            let _ = writeln!(text, "    {:<16}{required} {}", s.name, s.about);
        }
        text.push('\n');
    }
    print(&text)
}

/// Reads the list from the schema, whose descriptions are the comments of the connectors' specs.
fn list<T: schemars::JsonSchema>(role: &'static str) -> Vec<Connector> {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    let schema = schema.as_value();
    let forms = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let mut connectors = Vec::new();
    for (name, form) in forms.filter_map(|f| f.get("properties")?.as_object()).flatten() {
        let form = follow(schema, form);
        let required: Vec<&str> = form
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let settings = form.get("properties").and_then(Value::as_object).into_iter().flatten();
        connectors.push(Connector {
            name: name.clone(),
            role,
            about: about(form),
            settings: settings
                .map(|(name, s)| Setting {
                    name: name.clone(),
                    required: required.contains(&name.as_str()),
                    about: about(s),
                })
                .collect(),
        });
    }
    connectors
}

fn follow<'a>(root: &'a Value, form: &'a Value) -> &'a Value {
    form.get("$ref").and_then(Value::as_str).and_then(|r| root.pointer(r.strip_prefix('#')?)).unwrap_or(form)
}

fn about(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
