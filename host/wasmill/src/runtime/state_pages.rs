//! The pages under `/state`: a running pipeline's state, read-only, for `wasmill state`.
//!
//! A page is made from a snapshot of the last commit, on a thread for blocking calls: lanes and commits go
//! on. State is somebody's data, so it is shown to this machine alone.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{ConnectInfo, Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use wasmill_engine::state::{StateStore, StateView};

use super::http::Pages;
use crate::state::{self, ExportError, Filter, PAGE_ENTRIES_MAX, StateError, Wanted};

/// How many pages are made at once: each takes a processor.
const PAGES_AT_ONCE: usize = 1;
/// How much of an export is on its way at once: so many pieces of so many bytes.
const PIECES: usize = 4;
const PIECE_BYTES: usize = 64 << 10;

/// The stores of the pipelines that run, by name.
pub(super) struct StatePages {
    // Weak: a store is closed when its pipeline ends, whoever has looked at it.
    stores: Mutex<BTreeMap<String, Weak<dyn StateStore>>>,
    at_once: Arc<Semaphore>,
}

impl Default for StatePages {
    fn default() -> Self {
        Self { stores: Mutex::default(), at_once: Arc::new(Semaphore::new(PAGES_AT_ONCE)) }
    }
}

impl StatePages {
    /// Shows a pipeline's state from now on.
    pub fn show(&self, pipeline: &str, store: &Arc<dyn StateStore>) {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.insert(pipeline.to_owned(), Arc::downgrade(store));
    }

    fn store(&self, pipeline: &str) -> Option<Arc<dyn StateStore>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).get(pipeline)?.upgrade()
    }
}

/// What can be asked for.
enum Asked {
    Entries(Filter),
    Entry(Wanted),
    Stats,
    Export,
}

type Refusal = (StatusCode, String);

/// Answers a page.
pub(super) async fn answer(
    State(pages): State<Arc<Pages>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((pipeline, page)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let refuse = |(status, text): Refusal| (status, format!("{text}\n")).into_response();
    if !peer.ip().to_canonical().is_loopback() {
        let text = "state is shown on the machine alone on which wasmill runs: ask by 127.0.0.1 there";
        return refuse((StatusCode::FORBIDDEN, text.to_owned()));
    }
    let asked = match asked(&page, query.as_deref().unwrap_or_default()) {
        Ok(asked) => asked,
        Err(refusal) => return refuse(refusal),
    };
    let Some(store) = pages.states.store(&pipeline) else {
        return refuse((
            StatusCode::NOT_FOUND,
            format!("no pipeline `{pipeline}` runs here, or it is only starting"),
        ));
    };
    let Ok(turn) = Arc::clone(&pages.states.at_once).acquire_owned().await else {
        return refuse((StatusCode::SERVICE_UNAVAILABLE, "wasmill is stopping".to_owned()));
    };
    if matches!(asked, Asked::Export) {
        let (to, pieces) = mpsc::channel(PIECES);
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut to = Pieces { to, piece: Vec::with_capacity(PIECE_BYTES) };
            let exported = view(&*store)
                .map_err(|(_, text)| ExportError::State(StateError::Unknown(text)))
                .and_then(|view| state::export(&*view, &pipeline, &mut to));
            if let Err(error) = exported {
                // Whoever reads it finds it cut off.
                tracing::warn!(%pipeline, %error, "an export of the state was not finished");
            }
        });
        return ([(header::CONTENT_TYPE, "application/jsonl")], Body::from_stream(Stream(pieces)))
            .into_response();
    }
    let made = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        make(&*view(&*store)?, &asked)
    });
    match made.await {
        Ok(Ok(json)) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Ok(Err(refusal)) => refuse(refusal),
        Err(e) => refuse((StatusCode::INTERNAL_SERVER_ERROR, format!("the page can't be made: {e}"))),
    }
}

fn asked(page: &str, query: &str) -> Result<Asked, Refusal> {
    let mut given: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let wrong = |text: String| (StatusCode::BAD_REQUEST, text);
    let number = |name: &str, text: String| {
        text.parse::<i64>().map_err(|_| wrong(format!("`{name}` is {text:?}, not a whole number")))
    };
    let asked = match page {
        "entries" => {
            let limit = given.remove("limit").map(|text| number("limit", text)).transpose()?;
            let limit = limit.map_or(PAGE_ENTRIES_MAX, |limit| usize::try_from(limit).unwrap_or_default());
            let (stage, key_prefix) = (given.remove("stage"), given.remove("key_prefix"));
            Asked::Entries(Filter { stage, key_prefix, after: given.remove("after"), limit })
        }
        "entry" => {
            let window = given.remove("window").map(|text| number("window", text)).transpose()?;
            let mut required =
                |name: &str| given.remove(name).ok_or_else(|| wrong(format!("`{name}` is missing")));
            let (stage, key) = (required("stage")?, required("key")?);
            Asked::Entry(Wanted { stage, key, window, name: given.remove("name") })
        }
        "stats" => Asked::Stats,
        "export" => Asked::Export,
        other => {
            let text = format!("there is no page {other:?}; there are entries, entry, stats, export");
            return Err((StatusCode::NOT_FOUND, text));
        }
    };
    match given.into_keys().next() {
        Some(unknown) => Err(wrong(format!("`{unknown}` can't be asked for here"))),
        None => Ok(asked),
    }
}

fn view(store: &dyn StateStore) -> Result<Box<dyn StateView>, Refusal> {
    let internal = |text: String| (StatusCode::INTERNAL_SERVER_ERROR, text);
    store.view().map_err(|e| internal(e.to_string()))?.ok_or_else(|| {
        let text = format!("the state is kept in {}, and is not shown here", store.name());
        (StatusCode::NOT_FOUND, text)
    })
}

fn make(view: &dyn StateView, asked: &Asked) -> Result<Vec<u8>, Refusal> {
    match asked {
        Asked::Entries(filter) => json(state::page(view, filter)),
        Asked::Entry(wanted) => json(state::find(view, wanted)),
        Asked::Stats => json(state::stats(view)),
        Asked::Export => Ok(Vec::new()),
    }
}

fn json(made: Result<impl Serialize, StateError>) -> Result<Vec<u8>, Refusal> {
    let made = made.map_err(|e| {
        let status = match &e {
            StateError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
            StateError::Nothing | StateError::Unknown(_) => StatusCode::NOT_FOUND,
        };
        (status, e.to_string())
    })?;
    serde_json::to_vec(&made).map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

/// Hands an export on in pieces; who reads slowly slows it down.
struct Pieces {
    to: mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads it any more");
        self.to.blocking_send(piece).map_err(gone)
    }
}

struct Stream(mpsc::Receiver<Vec<u8>>);

impl futures_core::Stream for Stream {
    type Item = io::Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|piece| piece.map(Ok))
    }
}
