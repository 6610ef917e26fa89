//! What a component's bytes say of it before anything is compiled.

use wasmparser::{Element, ElementItems, ElementKind, KnownCustom, Parser, Payload};

/// What a component's bytes say of it.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    /// The names that it imports.
    pub imports: Vec<String>,
    /// The names that it exports.
    pub exports: Vec<String>,
    /// How many more there are of either than are kept.
    pub names_left_out: usize,
    /// Its version, where its metadata names one.
    pub version: Option<String>,
    /// What made it: (field, name, version).
    pub producers: Vec<(String, String, String)>,
    /// How many functions its modules define.
    pub functions: usize,
    /// The bytes of the longest of them.
    pub longest_function_bytes: usize,
    /// How many elements of tables they keep that are in none at first; each of their segments counts as one.
    pub passive_elements: usize,
    /// The bytes of the longest name that functions have.
    pub longest_name_bytes: usize,
    /// The schemas that it declares of payloads.
    pub declared: Declared,
    /// The self-test cases that it carries: each section `wasmill:cases` of its file or of a module in it.
    pub cases: Vec<Vec<u8>>,
}

/// The schemas that a plugin declares of payloads, as JSON text, in custom sections of its file or of a module in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// What it takes: the section `wasmill:input`.
    pub input: Option<Vec<u8>>,
    /// What it makes: the section `wasmill:output`.
    pub output: Option<Vec<u8>>,
}

/// The custom section with self-test cases.
pub const CASES_SECTION: &str = "wasmill:cases";

/// The most names of imports, and of exports, that are kept.
pub(crate) const NAMES_MAX: usize = 10_000;

/// The longest schema that is read.
const SCHEMA_BYTES_MAX: usize = 256 << 10;

/// Reads the outline. Allocates nothing in proportion to what the bytes claim, only to what they hold.
pub(crate) fn read(bytes: &[u8]) -> Result<Outline, String> {
    let mut outline = Outline::default();
    let mut depth = 0_usize;
    let fail = |e: wasmparser::BinaryReaderError| e.to_string();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(fail)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CodeSectionEntry(body) => {
                outline.functions += 1;
                outline.longest_function_bytes = outline.longest_function_bytes.max(body.range().len());
            }
            Payload::ElementSection(segments) => {
                for segment in segments {
                    outline.passive_elements += kept_elements(&segment.map_err(fail)?);
                }
            }
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    keep(import.map_err(fail)?.name.name, &mut outline.imports, &mut outline.names_left_out);
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    keep(export.map_err(fail)?.name.name, &mut outline.exports, &mut outline.names_left_out);
                }
            }
            Payload::CustomSection(section) => match section.as_known() {
                KnownCustom::Producers(fields) => read_producers(fields, &mut outline),
                KnownCustom::Name(names) => read_names(names, &mut outline),
                _ if depth == 0 && section.name() == "version" => {
                    outline.version =
                        std::str::from_utf8(section.data()).ok().map(|v| crate::text::tame(v, 64));
                }
                _ => {
                    let place = match section.name() {
                        CASES_SECTION => {
                            outline.cases.push(section.data().to_owned());
                            continue;
                        }
                        "wasmill:input" => &mut outline.declared.input,
                        "wasmill:output" => &mut outline.declared.output,
                        _ => continue,
                    };
                    if section.data().len() <= SCHEMA_BYTES_MAX {
                        *place = Some(section.data().to_owned());
                    }
                }
            },
            _ => {}
        }
    }
    Ok(outline)
}

/// Keeps a name, as far as there is room: in a file it takes a few bytes, here many times as much.
fn keep(name: &str, names: &mut Vec<String>, left_out: &mut usize) {
    if names.len() < NAMES_MAX {
        names.push(name.to_owned());
    } else {
        *left_out += 1;
    }
}

/// How many elements the host keeps of a segment beside the tables.
fn kept_elements(segment: &Element<'_>) -> usize {
    let items = match &segment.items {
        ElementItems::Functions(items) => items.count(),
        ElementItems::Expressions(_, items) => items.count(),
    };
    match segment.kind {
        ElementKind::Active { .. } => 0,
        ElementKind::Passive | ElementKind::Declared => items as usize + 1,
    }
}

/// Names are a courtesy as well: what doesn't parse names nothing.
fn read_names(names: wasmparser::NameSectionReader<'_>, outline: &mut Outline) {
    for names in names.into_iter().flatten() {
        let wasmparser::Name::Function(names) = names else { continue };
        for naming in names.into_iter().flatten() {
            outline.longest_name_bytes = outline.longest_name_bytes.max(naming.name.len());
        }
    }
}

/// Producers are a courtesy: what doesn't parse is left out.
fn read_producers(fields: wasmparser::ProducersSectionReader<'_>, outline: &mut Outline) {
    for field in fields.into_iter().flatten() {
        for value in field.values.into_iter().flatten() {
            let tame = |t| crate::text::tame(t, 128);
            let entry = (tame(field.name), tame(value.name), tame(value.version));
            if outline.producers.len() < 64 && !outline.producers.contains(&entry) {
                outline.producers.push(entry);
            }
        }
    }
}
