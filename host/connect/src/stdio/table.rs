//! A table for people: the first rows, aligned, times as UTC.

use serde_json::Value;
use wasmill_engine::time::timestamp_in_range;

use crate::codec::rfc3339;

/// How wide a cell may be, in characters.
const CELL_CHARS_MAX: usize = 40;
/// How many columns a table without named ones may have.
const COLUMNS_MAX: usize = 12;

/// Rows that wait for the end.
pub(super) struct Table {
    columns: Vec<String>,
    rows: Vec<Value>,
    rows_max: usize,
    cut: u64,
}

impl Table {
    pub(super) fn new(columns: Vec<String>, rows_max: usize) -> Self {
        Self { columns, rows: Vec::new(), rows_max, cut: 0 }
    }

    /// Takes an encoded message.
    pub(super) fn push(&mut self, message: &[u8]) {
        if self.rows.len() == self.rows_max {
            self.cut += 1;
        } else if let Ok(row) = serde_json::from_slice(message) {
            self.rows.push(row);
        }
    }

    pub(super) fn render(&self) -> String {
        let Some(first) = self.rows.first() else { return "no messages\n".into() };
        let columns = if self.columns.is_empty() { columns_of(first) } else { self.columns.clone() };
        let columns: Vec<Column> = columns.iter().map(|c| Column::new(c, &self.rows)).collect();
        let mut text = String::new();
        line(&mut text, columns.iter().map(|c| (c.name, c.width, c.right)));
        let rules: Vec<String> = columns.iter().map(|c| "─".repeat(c.width)).collect();
        line(&mut text, columns.iter().zip(&rules).map(|(c, rule)| (rule.as_str(), c.width, false)));
        for row in 0..self.rows.len() {
            line(&mut text, columns.iter().map(|c| (c.cells[row].as_str(), c.width, c.right)));
        }
        if self.cut > 0 {
            text.push_str(&format!("… {} more\n", grouped(self.cut)));
        }
        text
    }
}

fn line<'a>(text: &mut String, cells: impl Iterator<Item = (&'a str, usize, bool)>) {
    let start = text.len();
    for (i, (cell, width, right)) in cells.enumerate() {
        if i > 0 {
            text.push_str("  ");
        }
        if right {
            text.push_str(&format!("{cell:>width$}"));
        } else {
            text.push_str(&format!("{cell:<width$}"));
        }
    }
    let end = start + text[start..].trim_end().len();
    text.truncate(end);
    text.push('\n');
}

struct Column<'a> {
    name: &'a str,
    cells: Vec<String>,
    width: usize,
    right: bool,
}

impl<'a> Column<'a> {
    fn new(path: &'a str, rows: &[Value]) -> Self {
        let values: Vec<&Value> = rows.iter().map(|row| find(row, path)).collect();
        let name = path.rsplit('.').next().unwrap_or(path);
        let is_time = matches!(name, "start" | "end" | "timestamp");
        let times: Vec<Option<i64>> =
            values.iter().map(|v| v.as_i64().filter(|t| is_time && timestamp_in_range(*t))).collect();
        // What is zero in every row says nothing.
        let unit = [60_000, 1000].into_iter().find(|unit| times.iter().flatten().all(|t| t % unit == 0));
        let cells: Vec<String> =
            values.iter().zip(&times).map(|(v, t)| t.map_or_else(|| cell(v), |t| time(t, unit))).collect();
        let width = cells.iter().map(|c| c.chars().count()).chain([name.chars().count()]).max().unwrap_or(0);
        let right = times.iter().all(Option::is_none) && values.iter().all(|v| v.is_number() || v.is_null());
        Self { name, cells, width, right }
    }
}

/// The value at a path: in the payload, or else in the message.
fn find<'a>(row: &'a Value, path: &str) -> &'a Value {
    let walk = |from: &'a Value| path.split('.').try_fold(from, |at, name| at.get(name));
    row.get("payload").and_then(walk).or_else(|| walk(row)).unwrap_or(&Value::Null)
}

/// The columns of a table that names none: the payload's fields, those of its objects included.
fn columns_of(row: &Value) -> Vec<String> {
    let Some(payload) = row.get("payload").and_then(Value::as_object) else {
        return ["id", "type", "timestamp", "payload"].map(str::to_owned).to_vec();
    };
    let mut columns = Vec::new();
    for (name, value) in payload {
        match value.as_object() {
            Some(inner) if !inner.is_empty() => columns.extend(inner.keys().map(|k| format!("{name}.{k}"))),
            _ => columns.push(name.clone()),
        }
    }
    columns.truncate(COLUMNS_MAX);
    columns
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(n) if n.is_f64() => format!("{:.2}", n.as_f64().unwrap_or_default()),
        other => other.to_string(),
    };
    // A control character would break the table, or reach the terminal.
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let shown: String = clean.clone().take(CELL_CHARS_MAX).collect();
    if clean.count() > CELL_CHARS_MAX {
        return shown.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect();
    }
    shown
}

fn time(ms: i64, unit: Option<i64>) -> String {
    let text = rfc3339::format(ms).replace('T', " ");
    let length = match unit {
        Some(60_000) => 16,
        Some(_) => 19,
        None => 23,
    };
    text.get(..length).unwrap_or(&text).to_owned()
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(key: &str, hour: i64, departures: u32, delay: f64) -> Vec<u8> {
        let start = 1_356_998_400_000 + hour * 3_600_000;
        format!(
            r#"{{"id":"w","type":"delays.window","payload":{{"key":"{key}","start":{start},"end":{},"final":true,"value":{{"departures":{departures},"avg_dep_delay":{delay}}}}},"timestamp":1,"metadata":{{}}}}"#,
            start + 3_600_000
        )
        .into_bytes()
    }

    #[test]
    fn shows_named_columns_and_what_was_cut() {
        let columns = ["key", "start", "value.departures", "value.avg_dep_delay"].map(str::to_owned).to_vec();
        let mut table = Table::new(columns, 2);
        table.push(&window("UA", 5, 12, 3.25));
        table.push(&window("\\u001b[2J", 6, 1200, -0.333_333));
        for _ in 0..3412 {
            table.push(&window("DL", 7, 1, 0.5));
        }
        let expected = "\
key   start             departures  avg_dep_delay
────  ────────────────  ──────────  ─────────────
UA    2013-01-01 05:00          12           3.25
 [2J  2013-01-01 06:00        1200          -0.33
… 3,412 more
";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn finds_columns_itself() {
        let mut table = Table::new(Vec::new(), 20);
        assert_eq!(table.render(), "no messages\n");
        table.push(&window("UA", 5, 12, 3.0));
        let head = table.render().lines().next().expect("a head").to_owned();
        assert_eq!(head, "key  start             end               final  departures  avg_dep_delay");

        let mut plain = Table::new(Vec::new(), 20);
        plain.push(br#"{"id":"1","type":"t","payload":"hi","timestamp":1001,"metadata":{}}"#);
        assert_eq!(plain.render().lines().nth(2), Some("1   t     1970-01-01 00:00:01.001  hi"));
    }
}
