//! What the host offers beyond the message at hand.
//!
//! Each use is an import of the plugin, and one that is not used is not imported. `wall_clock`,
//! `state` and `count` must be granted in the pipeline's spec, as must [`crate::secret`], [`crate::lookup`] and
//! [`crate::http`]; the others are always there.

use std::cell::{Cell, RefCell};

use serde::de::DeserializeOwned;

use crate::{Result, json};

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::testing::host::{
    config_get, http_send, http_send_many, log_write, lookup_get, lookup_get_many, message_time, metrics_add,
    random_next, secret_get, state_change_many, state_delete, state_get, state_get_many, state_increment,
    state_increment_many, state_set, wall_clock_now,
};
#[cfg(target_arch = "wasm32")]
pub(crate) use wasm::*;

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something is lost or broken.
    Error,
    /// Something is odd; nothing is lost.
    Warn,
    /// Worth knowing.
    Info,
    /// For the author.
    Debug,
}

/// What the pipeline spec says under the stage's `config`, read as JSON.
///
/// # Errors
/// When it is there and is another type: the reason names the key and the field.
pub fn config<T: DeserializeOwned>(key: &str) -> Result<Option<T>> {
    let Some(value) = config_get(key) else { return Ok(None) };
    json::read(&format!("config.{key}"), value.as_bytes()).map(Some)
}

/// The wall clock, in milliseconds since 1970, as it stood when the batch at hand first asked for it. It
/// must be granted: results that use it can't be replayed. [`crate::Message::time`] is the message's own time.
#[must_use]
pub fn wall_clock() -> i64 {
    NOW.get().unwrap_or_else(|| {
        let now = wall_clock_now();
        NOW.set(Some(now));
        now
    })
}

/// Writes a line into the host's log. The host bounds how many and how long.
pub fn log(level: Level, text: &str) {
    log_write(level, text);
}

thread_local! {
    static COUNTS: RefCell<Vec<(&'static str, u64)>> = const { RefCell::new(Vec::new()) };
    static FLUSH: Cell<Option<fn()>> = const { Cell::new(None) };
    /// What the wall clock said in this call.
    static NOW: Cell<Option<i64>> = const { Cell::new(None) };
}

/// Forgets what the wall clock said, and what was counted by a call that failed or a fold that begins anew.
#[inline]
pub(crate) fn begin() {
    NOW.set(None);
    forget_counts();
}

/// Adds to a counter of the plugin's own in the host's metrics. Sums travel once a batch, when it
/// has succeeded. It must be granted.
pub fn count(name: &'static str, by: u64) {
    // By way of a pointer, so that a plugin that never counts does not import the metrics.
    FLUSH.set(Some(flush_counts));
    COUNTS.with_borrow_mut(|counts| match counts.iter_mut().find(|(n, _)| *n == name) {
        Some((_, sum)) => *sum = sum.saturating_add(by),
        None => counts.push((name, by)),
    });
}

fn flush_counts() {
    for (name, by) in COUNTS.take() {
        metrics_add(name, by);
    }
}

#[inline]
pub(crate) fn forget_counts() {
    if FLUSH.take().is_some() {
        COUNTS.take();
    }
}

/// Ends a call: tells the host what was counted.
#[inline]
pub(crate) fn flush() {
    if let Some(flush) = FLUSH.take() {
        flush();
    }
}

/// Writes a formatted line at [`Level::Error`].
#[macro_export]
macro_rules! log_error {
    ($($text:tt)+) => { $crate::log($crate::Level::Error, &::std::format!($($text)+)) };
}
/// Writes a formatted line at [`Level::Warn`].
#[macro_export]
macro_rules! log_warn {
    ($($text:tt)+) => { $crate::log($crate::Level::Warn, &::std::format!($($text)+)) };
}
/// Writes a formatted line at [`Level::Info`].
#[macro_export]
macro_rules! log_info {
    ($($text:tt)+) => { $crate::log($crate::Level::Info, &::std::format!($($text)+)) };
}
/// Writes a formatted line at [`Level::Debug`].
#[macro_export]
macro_rules! log_debug {
    ($($text:tt)+) => { $crate::log($crate::Level::Debug, &::std::format!($($text)+)) };
}

#[cfg(target_arch = "wasm32")]
mod wasm {
    use super::Level;
    use crate::bindings::imports::wasmill::plugin as import;
    use crate::http::{Request, Response};

    pub(crate) use import::clock::message_time;
    pub(crate) use import::config::get as config_get;
    pub(crate) use import::lookup::{get as lookup_get, get_many as lookup_get_many};
    pub(crate) use import::metrics::add as metrics_add;
    pub(crate) use import::random::next as random_next;
    pub(crate) use import::secrets::get as secret_get;
    pub(crate) use import::state::{
        change_many as state_change_many, delete as state_delete, get as state_get,
        get_many as state_get_many, increment as state_increment, increment_many as state_increment_many,
        set as state_set,
    };
    pub(crate) use import::wall_clock::now as wall_clock_now;

    fn to_host(request: &Request) -> import::http::Request {
        let header = |(name, value): &(String, String)| import::http::Header {
            name: name.clone(),
            value: value.clone(),
        };
        import::http::Request {
            method: request.method.clone(),
            url: request.url.clone(),
            headers: request.headers.iter().map(header).collect(),
            body: request.body.clone(),
        }
    }

    fn from_host(response: import::http::Response) -> Response {
        let headers = response.headers.into_iter().map(|h| (h.name, h.value)).collect();
        Response { status: response.status, headers, body: response.body }
    }

    pub(crate) fn http_send(request: &Request) -> Result<Response, String> {
        import::http::send(&to_host(request)).map(from_host)
    }

    pub(crate) fn http_send_many(requests: &[Request]) -> Vec<Result<Response, String>> {
        let requests: Vec<_> = requests.iter().map(to_host).collect();
        import::http::send_many(&requests).into_iter().map(|answer| answer.map(from_host)).collect()
    }

    pub(crate) fn log_write(level: Level, text: &str) {
        let level = match level {
            Level::Error => import::log::Level::Error,
            Level::Warn => import::log::Level::Warn,
            Level::Info => import::log::Level::Info,
            Level::Debug => import::log::Level::Debug,
        };
        import::log::write(level, text);
    }
}
