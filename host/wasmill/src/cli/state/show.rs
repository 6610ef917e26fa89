//! Shows state to people. Keys and values are somebody's data: what a terminal would obey is escaped.

use std::fmt::Write as _;

use serde_json::{Value, json};
use wasmill_connect::kafka::{exchange_offset, exchange_part};
use wasmill_engine::builtin::BuiltIns;
use wasmill_engine::guest::{CallContext, Trial};
use wasmill_engine::position::Position;
use wasmill_engine::state::StateKind;
use wasmill_engine::time::{END, START};
use wasmill_frame::{Blobs, BlobsWriter};

use crate::cli::check::load_fitting;
use crate::cli::sandbox;
use crate::spec::{ComputedBy, Pipeline, PluginStage, Stage};
use crate::state::{Entry, Found, Page, Stats};

/// How many bytes of a value are shown to people.
const VALUE_BYTES_SHOWN: usize = 4 << 10;

fn time(ms: i64) -> String {
    match ms {
        START => "before everything".to_owned(),
        END => "behind everything".to_owned(),
        ms => wasmill_connect::codec::rfc3339::format(ms),
    }
}

/// The first line: of what, as of when, from where.
pub(super) fn heading(pipeline: &str, epoch: u64, stream_time: i64, from: &str) -> String {
    format!("{pipeline}: as of epoch {epoch}, stream time {}, from {from}\n", time(stream_time))
}

/// A line an entry. Writing to a `String` can't fail.
pub(super) fn entries(page: &Page) -> String {
    let mut text = String::new();
    for entry in &page.entries {
        let _ = writeln!(text, "  {}", self::entry(entry));
    }
    text
}

fn entry(entry: &Entry) -> String {
    let Entry { stage, kind, key, start, end, name, expires, bytes, .. } = entry;
    let mut text = format!("{stage:<16} {kind:<8} {}", key.escape_debug());
    match (start, end) {
        (Some(start), Some(end)) => text.push_str(&format!("  [{start}, {end}) from {}", time(*start))),
        (None, Some(end)) => text.push_str(&format!("  until {end}, {}", time(*end))),
        _ => {}
    }
    if let Some(name) = name {
        text.push_str(&format!("  {}", name.escape_debug()));
    }
    if let Some(expires) = expires {
        text.push_str(&format!("  expires at {expires}, {}", time(*expires)));
    }
    text.push_str(&format!("  {bytes} bytes"));
    text
}

/// What the aggregate makes of an accumulator; why it can't be asked; nothing where the entry is none.
pub(super) fn finished(pipeline: &Pipeline, found: &Found, bytes: &[u8]) -> Option<Result<Value, String>> {
    let by_name = |s: &&Stage| s.name() == Some(found.entry.stage.as_str());
    let stage = pipeline.stages.iter().find(by_name)?;
    match stage {
        Stage::Aggregate(aggregate) if found.entry.kind != StateKind::Clock.name() => {
            Some(match &aggregate.by {
                ComputedBy::Plugin(plugin) => finish(pipeline, (stage, plugin), found, bytes),
                ComputedBy::BuiltIns(built_ins) => finish_built_ins(&built_ins.built_ins, found, bytes),
            })
        }
        _ => None,
    }
}

fn same_version(found: &Found, now: &Value) -> Result<(), String> {
    match &found.state_version {
        Some(stored) if stored == now => Ok(()),
        _ => Err("the stage is of another state version now than the accumulator".to_owned()),
    }
}

fn finish_built_ins(built_ins: &BuiltIns, found: &Found, bytes: &[u8]) -> Result<Value, String> {
    same_version(found, &built_ins.shape().into())?;
    let value = built_ins.finish(bytes)??;
    serde_json::from_slice(&value).map_err(|e| format!("the result is no JSON: {e}"))
}

fn finish(
    pipeline: &Pipeline,
    (stage, plugin): (&Stage, &PluginStage),
    found: &Found,
    bytes: &[u8],
) -> Result<Value, String> {
    let sandbox = sandbox::open(Some(&pipeline.limits), 0).map_err(|stop| stop.shown)?;
    let plugin = load_fitting(&sandbox, pipeline, stage, plugin).map_err(|stop| stop.shown)?;
    let version = plugin.info().aggregate.as_ref().map(|a| a.state_version);
    same_version(found, &version.into())?;
    let mut blobs = BlobsWriter::new();
    blobs.push(0, bytes);
    let answer = plugin
        .guest()
        .finish(&blobs.finish(), &mut CallContext::default(), Trial::Verdict)
        .map_err(|e| e.to_string())?;
    let blobs = Blobs::parse(&answer).map_err(|e| e.to_string())?;
    let (tag, value) = blobs.iter().next().ok_or("the plugin answered nothing")?;
    if tag != 0 {
        return Err(String::from_utf8_lossy(value).into_owned());
    }
    serde_json::from_slice(value).map_err(|e| format!("the plugin answered no JSON: {e}"))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// An entry with its value, as JSON.
pub(super) fn found_json(
    found: &Found,
    bytes: &[u8],
    finished: Option<Result<Value, String>>,
    from: &str,
) -> Value {
    let (finished, why_not) = match finished {
        Some(Ok(value)) => (Some(value), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    json!({
        "from": from,
        "epoch": found.epoch,
        "entry": found.entry,
        "state_version": found.state_version,
        "value_base64": found.value,
        "value_hex": hex(bytes),
        "text": std::str::from_utf8(bytes).ok(),
        "finished": finished,
        "not_finished_because": why_not,
    })
}

/// An entry with its value, for people.
pub(super) fn found(
    pipeline: &str,
    found: &Found,
    bytes: &[u8],
    finished: Option<Result<Value, String>>,
    from: &str,
) -> String {
    let mut text =
        format!("{pipeline}: as of epoch {}, from {from}\n  {}\n", found.epoch, entry(&found.entry));
    let shown = &bytes[..bytes.len().min(VALUE_BYTES_SHOWN)];
    let cut = if shown.len() < bytes.len() { " … (--json shows all)" } else { "" };
    let _ = writeln!(text, "  hex       {}{cut}", hex(shown));
    if let Ok(words) = std::str::from_utf8(bytes)
        && !words.is_empty()
    {
        let words: String = words.chars().take(VALUE_BYTES_SHOWN).collect();
        let _ = writeln!(text, "  text      {}{cut}", words.escape_debug());
    }
    match finished {
        Some(Ok(value)) => {
            let _ = writeln!(text, "  finished  {value}");
        }
        Some(Err(why)) => {
            let _ = writeln!(text, "  finished  can't be shown: {why}");
        }
        None => {}
    }
    text
}

/// Sums, for people.
pub(super) fn stats(pipeline: &Pipeline, stats: &Stats, from: &str) -> String {
    let mut t = heading(&pipeline.name, stats.epoch, stats.stream_time, from);
    let _ = write!(t, "  {} entries, {} bytes", stats.entries, stats.bytes);
    if let Some(disk) = stats.disk_bytes {
        let _ = write!(t, ", {disk} bytes on disk");
    }
    let _ = write!(t, "; generation {}", stats.generation);
    if let Some(groups) = stats.key_groups {
        let _ = write!(t, "; {groups} key groups");
    }
    t.push('\n');
    if let Some(epoch) = stats.foretold_epoch {
        let _ = writeln!(t, "  epoch {epoch} was begun and not committed; the next run repeats it first");
    }
    t.push_str("\nstages\n");
    for s in &stats.stages {
        let _ = writeln!(t, "  {:<16} {:<8} {} entries, {} bytes", s.stage, s.kind, s.entries, s.bytes);
    }
    t.push_str("\nlargest key groups\n");
    for s in &stats.largest_groups {
        let group = s.group.map_or_else(|| "-".to_owned(), |g| g.to_string());
        let _ = writeln!(
            t,
            "  {group:<6} {:<16} {:<8} {} entries, {} bytes",
            s.stage, s.kind, s.entries, s.bytes
        );
    }
    t.push_str("\npositions\n");
    let is_exchange = pipeline.exchange_partitions.is_some();
    let mut positions: Vec<_> =
        stats.positions.iter().map(|(id, p)| (place(is_exchange, id, p), p)).collect();
    positions.sort_by(|(one, _), (other, _)| one.cmp(other));
    for ((id, offset), p) in positions {
        let progress = format!("{:?}", p.progress).to_lowercase();
        let _ = writeln!(t, "  {id:<8} offset {offset}, stream time {}, {progress}", time(p.stream_time));
    }
    t
}

/// A partition and an offset in it, for people; behind an exchange, of the exchange's topic, and what of the
/// sources the position is of.
fn place(is_exchange: bool, id: &str, position: &Position) -> (String, u64) {
    let number = id.split_once('/').and_then(|(_, number)| number.parse().ok());
    match number.filter(|_| is_exchange) {
        Some(number) => {
            let (partition, of) = exchange_part(number);
            (format!("[{partition}] of {of}"), exchange_offset(position.offset))
        }
        None => (id.to_owned(), position.offset),
    }
}
