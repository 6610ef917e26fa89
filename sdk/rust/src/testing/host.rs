//! The host's side of the imports, as far as a test needs it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;
use wasmill_frame::{Blobs, BlobsWriter};

use super::TestMessage;
use crate::Level;
use crate::http::{Request, Response};

/// What a test sets up and looks at of the host: as long as it lives, the calls of this thread share
/// it. Without one, each call has a new host that knows nothing.
#[derive(Debug)]
#[must_use = "the host goes when this is dropped: let host = Host::new();"]
pub struct Host {
    // Of one thread.
    _thread: std::marker::PhantomData<*const ()>,
}

#[derive(Debug, Default)]
struct World {
    config: BTreeMap<String, String>,
    wall_clock_ms: Option<i64>,
    state: BTreeMap<(Option<Vec<u8>>, String), Vec<u8>>,
    log: Vec<(Level, String)>,
    metrics: BTreeMap<String, u64>,
    secrets: BTreeMap<String, Vec<u8>>,
    lookups: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    http: Option<Answers>,
    // Of the messages of the call under way:
    keys: Vec<Option<Vec<u8>>>,
    times: Vec<i64>,
    drawn: Vec<u64>,
}

/// What answers requests.
#[derive(Clone)]
struct Answers(Rc<dyn Fn(&Request) -> Answer>);

type Answer = Result<Response, String>;

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answers")
    }
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fn world<T>(look: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| look(world.get_or_insert_default()))
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A host that knows nothing yet, in place of an earlier one.
    pub fn new() -> Self {
        WORLD.set(Some(World::default()));
        Self { _thread: std::marker::PhantomData }
    }

    /// With this under the stage's `config`.
    pub fn config(self, key: &str, value: impl Into<Value>) -> Self {
        world(|w| w.config.insert(key.to_owned(), value.into().to_string()));
        self
    }

    /// With the wall clock granted, standing at this time in milliseconds since 1970.
    pub fn wall_clock(self, ms: i64) -> Self {
        world(|w| w.wall_clock_ms = Some(ms));
        self
    }

    /// With this secret granted.
    pub fn secret(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        world(|w| w.secrets.insert(name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// With this row in a table that is granted.
    pub fn lookup(self, table: &str, key: &str, row: impl Into<Value>) -> Self {
        let row = row.into().to_string().into_bytes();
        world(|w| w.lookups.entry(table.to_owned()).or_default().insert(key.to_owned(), row));
        self
    }

    /// With HTTP granted to everywhere, and answered so. An error is what the host says where there is no answer.
    pub fn http(self, answer: impl Fn(&Request) -> Result<Response, String> + 'static) -> Self {
        world(|w| w.http = Some(Answers(Rc::new(answer))));
        self
    }

    /// The state of a key.
    #[must_use]
    pub fn state(&self, key: Option<&str>, name: &str) -> Option<Vec<u8>> {
        let key = key.map(|k| k.as_bytes().to_vec());
        world(|w| w.state.get(&(key, name.to_owned())).cloned())
    }

    /// The lines that were logged.
    #[must_use]
    pub fn log(&self) -> Vec<(Level, String)> {
        world(|w| w.log.clone())
    }

    /// What was counted under this name.
    #[must_use]
    pub fn counted(&self, name: &str) -> u64 {
        world(|w| w.metrics.get(name).copied().unwrap_or(0))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        WORLD.set(None);
    }
}

/// Runs a call about these messages.
pub(super) fn during<T>(messages: &[TestMessage], call: impl FnOnce() -> T) -> T {
    let lasting = WORLD.with_borrow(Option::is_some);
    world(|w| {
        w.keys = messages.iter().map(|m| m.key.clone()).collect();
        w.times = messages.iter().map(|m| m.timestamp.unwrap_or(0)).collect();
        w.drawn = vec![0; messages.len()];
    });
    let answer = call();
    if !lasting {
        WORLD.set(None);
    }
    answer
}

type Entry = (Option<Vec<u8>>, String);

fn entry(w: &World, index: u32, name: &str) -> Result<Entry, String> {
    let key = w.keys.get(index as usize).ok_or_else(|| format!("message {index} is not in the frame"))?;
    Ok((key.clone(), name.to_owned()))
}

pub(crate) fn state_get(index: u32, name: &str) -> Result<Option<Vec<u8>>, String> {
    world(|w| Ok(w.state.get(&entry(w, index, name)?).cloned()))
}

pub(crate) fn state_set(index: u32, name: &str, value: &[u8], _ttl_ms: Option<u64>) -> Result<(), String> {
    world(|w| {
        w.state.insert(entry(w, index, name)?, value.to_vec());
        Ok(())
    })
}

pub(crate) fn state_delete(index: u32, name: &str) -> Result<(), String> {
    world(|w| {
        w.state.remove(&entry(w, index, name)?);
        Ok(())
    })
}

pub(crate) fn state_increment(index: u32, name: &str, by: i64) -> Result<i64, String> {
    let old = match state_get(index, name)? {
        None => 0,
        Some(bytes) => {
            let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse::<i64>().ok());
            number.ok_or_else(|| format!("{:?} is no number", String::from_utf8_lossy(&bytes)))?
        }
    };
    let sum = old.checked_add(by).ok_or_else(|| format!("{old} + {by} leaves 64 bits"))?;
    state_set(index, name, sum.to_string().as_bytes(), None)?;
    Ok(sum)
}

fn names(blobs: &[u8]) -> Result<Vec<(u32, String)>, String> {
    let blobs = Blobs::parse(blobs).map_err(|e| e.to_string())?;
    Ok(blobs.iter().map(|(tag, name)| (tag, String::from_utf8_lossy(name).into_owned())).collect())
}

pub(crate) fn state_get_many(asked: &[u8]) -> Result<Vec<u8>, String> {
    let mut answer = BlobsWriter::new();
    for (index, name) in names(asked)? {
        match state_get(index, &name)? {
            Some(value) => answer.push(1, &value),
            None => answer.push(0, b""),
        }
    }
    Ok(answer.finish())
}

pub(crate) fn state_change_many(changes: &[u8]) -> Result<(), String> {
    let mut changes = Blobs::parse(changes).map_err(|e| e.to_string())?.iter();
    while let (Some((index, name)), Some((tag, value))) = (changes.next(), changes.next()) {
        let name = std::str::from_utf8(name).map_err(|e| e.to_string())?;
        match tag {
            1 => state_set(index, name, value, None)?,
            _ => state_delete(index, name)?,
        }
    }
    Ok(())
}

pub(crate) fn state_increment_many(asked: &[u8], by: i64) -> Result<Vec<i64>, String> {
    names(asked)?.into_iter().map(|(index, name)| state_increment(index, &name, by)).collect()
}

pub(crate) fn log_write(level: Level, text: &str) {
    world(|w| w.log.push((level, text.to_owned())));
}

pub(crate) fn metrics_add(name: &str, by: u64) {
    world(|w| *w.metrics.entry(name.to_owned()).or_default() += by);
}

pub(crate) fn config_get(key: &str) -> Option<String> {
    world(|w| w.config.get(key).cloned())
}

pub(crate) fn secret_get(name: &str) -> Result<Vec<u8>, String> {
    world(|w| w.secrets.get(name).cloned()).ok_or_else(|| {
        format!("the secret {name:?} is not granted: in a test, let host = Host::new().secret(name, value)")
    })
}

fn not_there(table: &str) -> String {
    format!("it is not granted: in a test, let host = Host::new().lookup({table:?}, key, row)")
}

pub(crate) fn lookup_get(table: &str, key: &str) -> Result<Option<Vec<u8>>, String> {
    world(|w| Ok(w.lookups.get(table).ok_or_else(|| not_there(table))?.get(key).cloned()))
}

pub(crate) fn lookup_get_many(table: &str, keys: &[u8]) -> Result<Vec<u8>, String> {
    let mut answer = BlobsWriter::new();
    for (_, key) in names(keys)? {
        match lookup_get(table, &key)? {
            Some(row) => answer.push(1, &row),
            None => answer.push(0, b""),
        }
    }
    Ok(answer.finish())
}

pub(crate) fn http_send(request: &Request) -> Result<Response, String> {
    // Taken out first: what answers may look at the host itself.
    match world(|w| w.http.clone()) {
        Some(Answers(answer)) => answer(request),
        None => Err("it is not granted: in a test, let host = Host::new().http(|request| …)".to_owned()),
    }
}

pub(crate) fn http_send_many(requests: &[Request]) -> Vec<Result<Response, String>> {
    requests.iter().map(http_send).collect()
}

pub(crate) fn message_time(index: u32) -> i64 {
    world(|w| w.times.get(index as usize).copied().unwrap_or(0))
}

pub(crate) fn wall_clock_now() -> i64 {
    world(|w| w.wall_clock_ms)
        .expect("the wall clock is not granted: in a test, let host = Host::new().wall_clock(ms)")
}

/// The SplitMix64 sequence of the message's index.
pub(crate) fn random_next(index: u32) -> u64 {
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
    let drawn = world(|w| {
        let drawn = w.drawn.get_mut(index as usize).map(|n| {
            *n += 1;
            *n
        });
        drawn.unwrap_or(1)
    });
    let mut z = u64::from(index).wrapping_mul(STEP.rotate_left(32)).wrapping_add(drawn.wrapping_mul(STEP));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
