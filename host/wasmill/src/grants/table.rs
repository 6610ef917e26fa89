//! Tables read from files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;
use wasmill_plugin::{Lookup, LookupBuilder, LookupError};

use super::read_bounded;
use crate::spec::{LookupSpec, TableForm};

/// A table as it was read.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its rows by key.
    pub rows: Arc<Lookup>,
    /// The SHA-256 of its file, in hexadecimal.
    pub digest: String,
}

impl Table {
    /// Reads a table from its file.
    pub(super) fn read(spec: &LookupSpec) -> Result<Self, String> {
        let raise = |e: String| format!("{e}: raise its `bytes_max`, or keep fewer rows");
        let bytes = read_bounded(&spec.file, spec.bytes_max)
            .map_err(|e| if e.contains("more than") { raise(e) } else { e })?;
        let digest = wasmill_plugin::digest(&bytes);
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let rows = match spec.form {
            TableForm::Csv => csv_rows(text, spec),
            TableForm::JsonLines => json_rows(text, spec),
        };
        let rows = rows.map_err(|Wrong { line, why }| {
            let shown = spec.file.display();
            let told = match line {
                0 => format!("{shown}: {why}"),
                line => format!("{shown}, line {line}: {why}"),
            };
            if why.contains("bytes of memory") { raise(told) } else { told }
        })?;
        Ok(Self { rows: Arc::new(rows), digest })
    }
}

/// What is wrong with a file, in which line; 0: in none of its own.
struct Wrong {
    line: u64,
    why: String,
}

fn push(table: &mut LookupBuilder, key: &str, row: &[u8], line: u64) -> Result<(), Wrong> {
    table.push(key, row).map_err(|e| Wrong {
        line: if matches!(e, LookupError::TooLarge { .. }) { 0 } else { line },
        why: e.to_string(),
    })
}

/// Rows as JSON objects of texts.
fn csv_rows(text: &[u8], spec: &LookupSpec) -> Result<Lookup, Wrong> {
    let mut reader = csv::Reader::from_reader(text);
    let wrong = |e: csv::Error| Wrong {
        line: e.position().map_or(0, csv::Position::line),
        why: match e.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("{len} fields, and the first line has {expected_len}")
            }
            csv::ErrorKind::Utf8 { .. } => "not UTF-8".to_owned(),
            _ => e.to_string(),
        },
    };
    let names = reader.headers().map_err(wrong)?.clone();
    let mut seen = BTreeMap::new();
    for (at, name) in names.iter().enumerate() {
        if seen.insert(name, at).is_some() {
            return Err(Wrong { line: 1, why: format!("the column `{name}` stands twice") });
        }
    }
    let Some(key) = seen.get(spec.key.as_str()).copied() else {
        let near = crate::report::did_you_mean(&spec.key, names.iter().collect::<Vec<_>>());
        return Err(Wrong { line: 1, why: format!("there is no column `{}`: {near}", spec.key) });
    };
    let quoted: Vec<String> = names.iter().map(quote).collect();
    let mut table = LookupBuilder::new(spec.bytes_max);
    let (mut record, mut row) = (csv::StringRecord::new(), String::new());
    while reader.read_record(&mut record).map_err(wrong)? {
        row.clear();
        for (name, value) in quoted.iter().zip(&record) {
            row.push(if row.is_empty() { '{' } else { ',' });
            row.push_str(name);
            row.push(':');
            row.push_str(&quote(value));
        }
        row.push('}');
        let line = record.position().map_or(0, csv::Position::line);
        push(&mut table, record.get(key).unwrap_or_default(), row.as_bytes(), line)?;
    }
    Ok(table.finish())
}

/// A text as JSON.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Rows as they stand.
fn json_rows(text: &[u8], spec: &LookupSpec) -> Result<Lookup, Wrong> {
    let mut table = LookupBuilder::new(spec.bytes_max);
    for (line, row) in (1..).zip(text.split(|b| *b == b'\n')) {
        let row = row.trim_ascii();
        if row.is_empty() {
            continue;
        }
        let wrong = |why: String| Wrong { line, why };
        let fields: BTreeMap<Cow<'_, str>, &RawValue> =
            serde_json::from_slice(row).map_err(|e| wrong(format!("no JSON object: {e}")))?;
        let Some(key) = fields.get(spec.key.as_str()) else {
            let near =
                crate::report::did_you_mean(&spec.key, fields.keys().map(|k| &**k).collect::<Vec<_>>());
            return Err(wrong(format!("there is no field `{}`: {near}", spec.key)));
        };
        let literal = key.get();
        let is_number = literal.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        let key: Cow<'_, str> = match serde_json::from_str::<String>(literal) {
            Ok(text) => text.into(),
            Err(_) if is_number => literal.into(),
            Err(_) => return Err(wrong(format!("the field `{}` is no text and no number", spec.key))),
        };
        push(&mut table, &key, row, line)?;
    }
    Ok(table.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Span;

    fn read(name: &str, text: impl AsRef<[u8]>, key: &str, bytes_max: usize) -> Result<Table, String> {
        let place = tempfile::tempdir().expect("a folder");
        let file = place.path().join(name);
        std::fs::write(&file, text).expect("written");
        let form = TableForm::of(&file).expect("a table's name");
        let spec = LookupSpec {
            file,
            form,
            key: key.into(),
            bytes_max,
            span: Span::default(),
            table: Arc::default(),
        };
        Table::read(&spec).map_err(|e| e.replace(&place.path().display().to_string(), ""))
    }

    fn row(table: &Table, key: &str) -> Option<String> {
        table.rows.get(key).map(|row| String::from_utf8(row.to_vec()).expect("UTF-8"))
    }

    #[test]
    fn csv_gives_objects_of_texts() {
        let text =
            "\u{feff}code,name,\"say \"\"hi\"\"\"\r\nUA,\"United, Inc\",1\r\n007,Bönd,\"two\nlines\"\r\n";
        let table = read("t.csv", text, "code", 1 << 20).expect("a table");
        let expected = r#"{"code":"UA","name":"United, Inc","say \"hi\"":"1"}"#;
        assert_eq!(row(&table, "UA").as_deref(), Some(expected));
        let expected = r#"{"code":"007","name":"Bönd","say \"hi\"":"two\nlines"}"#;
        assert_eq!(row(&table, "007").as_deref(), Some(expected));
        assert_eq!((table.rows.len(), row(&table, "7")), (2, None));
    }

    #[test]
    fn json_lines_give_rows_as_they_stand_and_numbers_are_keys_too() {
        let text = "{\"id\": 12, \"n\": 1.50}\n\n {\"id\":\"a\\u00e9\",\"x\":null}\r\n{\"id\":1e3}";
        let table = read("t.jsonl", text, "id", 1 << 20).expect("a table");
        assert_eq!(row(&table, "12").as_deref(), Some(r#"{"id": 12, "n": 1.50}"#));
        assert_eq!(row(&table, "aé").as_deref(), Some(r#"{"id":"a\u00e9","x":null}"#));
        assert_eq!(row(&table, "1e3").as_deref(), Some(r#"{"id":1e3}"#));
        // As `printf '{"id":1}' | sha256sum` has it.
        let table = read("t.jsonl", r#"{"id":1}"#, "id", 1 << 20).expect("a table");
        assert_eq!(table.digest, "037c9214eef74cc3887f3a4f085b4e17d76280dafd273b0ee160c09c4ba1cfd4");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (name, text, key, bytes_max, told) in [
            (
                "t.csv",
                "code,name\nUA,U\nUA,V\n",
                "code",
                1 << 20,
                "t.csv, line 3: the key \"UA\" stands twice",
            ),
            ("t.csv", "code,name\nUA\n", "code", 1 << 20, "line 2: 1 fields, and the first line has 2"),
            (
                "t.csv",
                "code,name\nUA,U\n",
                "kode",
                1 << 20,
                "line 1: there is no column `kode`: did you mean `code`?",
            ),
            ("t.csv", "a,a\n", "a", 1 << 20, "line 1: the column `a` stands twice"),
            ("t.jsonl", "{\"a\":1}\n{\"b\":1}", "a", 1 << 20, "line 2: there is no field `a`"),
            ("t.jsonl", "[1]", "a", 1 << 20, "line 1: no JSON object"),
            ("t.jsonl", "{\"a\":1", "a", 1 << 20, "line 1: no JSON object"),
            ("t.jsonl", "{\"a\":[]}", "a", 1 << 20, "line 1: the field `a` is no text and no number"),
            (
                "t.jsonl",
                "{\"a\":1}\n{\"a\":2}",
                "a",
                80,
                "takes more than 80 bytes of memory: raise its `bytes_max`",
            ),
            ("t.jsonl", "{\"a\":1}", "a", 6, "has more than 6 bytes: raise its `bytes_max`"),
        ] {
            let error = read(name, text, key, bytes_max).expect_err(told);
            assert!(error.contains(told), "{error}");
        }
        let error = read("t.csv", b"a\n\xff\n", "a", 1 << 20).expect_err("no UTF-8");
        assert!(error.contains("not UTF-8"), "{error}");
    }
}
