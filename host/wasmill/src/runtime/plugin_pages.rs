//! The pages under `/plugins`: which plugins a running pipeline has, and by which a swap is asked for.
//!
//! A swap changes what becomes of somebody's messages, so it is taken from this machine alone, and not from a page of
//! another site that a browser on it shows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{ConnectInfo, Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use wasmill_engine::edition::{Plugins, StagePlugin};

use super::http::Pages;
use super::swapper::{Asked, NotDone, Order};
use crate::spec::Pipeline;

/// The header without which no swap is asked for: a page of another site can't set it.
const ASKED_BY: &str = "x-wasmill";

/// A version that is there and doesn't run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Waiting {
    pub of: StagePlugin,
    /// Why it doesn't.
    pub why: String,
}

#[derive(Debug, Clone, Default, Serialize)]
struct Listed {
    plugins: Plugins,
    /// By stage: the last version that was looked at and doesn't run.
    waiting: BTreeMap<String, Waiting>,
    #[serde(skip)]
    orders: Option<mpsc::Sender<Asked>>,
}

/// The plugins of the pipelines that run, by their names as their specs have them, and by their parts.
#[derive(Debug, Default)]
pub(super) struct Catalog(Mutex<BTreeMap<String, BTreeMap<String, Listed>>>);

impl Catalog {
    fn with<T>(&self, pipeline: &Pipeline, change: impl FnOnce(&mut Listed) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = all.entry(pipeline.whole_name().to_owned()).or_default();
        change(parts.entry(pipeline.name.clone()).or_default())
    }

    /// What is listed of each part of a pipeline; none where it doesn't run here.
    fn parts(&self, pipeline: &str) -> Vec<Listed> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(pipeline).into_iter().flat_map(|parts| parts.values().cloned()).collect()
    }

    /// A run of a pipeline begins; orders go there.
    pub fn begins(&self, pipeline: &Pipeline, plugins: &Plugins) -> mpsc::Receiver<Asked> {
        let (orders, asked) = mpsc::channel(1);
        self.with(pipeline, |listed| {
            listed.plugins = plugins.clone();
            listed.orders = Some(orders);
        });
        asked
    }

    /// Other plugins run.
    pub fn runs(&self, pipeline: &Pipeline, plugins: &Plugins) {
        self.with(pipeline, |listed| {
            let is_there = |w: &Waiting| plugins.now.contains(&w.of);
            listed.waiting.retain(|_, waiting| !is_there(waiting));
            listed.plugins = plugins.clone();
        });
    }

    /// A version doesn't run. Answers whether that is news.
    pub fn waits(&self, pipeline: &Pipeline, waiting: Waiting) -> bool {
        self.with(pipeline, |listed| {
            listed.waiting.insert(waiting.of.stage.clone(), waiting.clone()) != Some(waiting)
        })
    }
}

impl Listed {
    /// Whether one of its stages, or its stages' plugins, is called so.
    fn has(&self, name: &str) -> bool {
        self.plugins.now.iter().any(|p| p.stage == name || p.plugin == name)
    }
}

fn not_here(pipeline: &str) -> Response {
    (StatusCode::NOT_FOUND, format!("no pipeline `{pipeline}` runs here, or it is only starting\n"))
        .into_response()
}

/// Shows a pipeline's plugins.
pub(super) async fn list(State(pages): State<Arc<Pages>>, Path(pipeline): Path<String>) -> Response {
    let mut all: Option<Listed> = None;
    for part in pages.catalog.parts(&pipeline) {
        match &mut all {
            None => all = Some(part),
            Some(all) => {
                all.plugins.extend(part.plugins);
                all.waiting.extend(part.waiting);
            }
        }
    }
    match all.map(|listed| serde_json::to_vec(&listed)) {
        Some(Ok(json)) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Some(Err(e)) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
        None => not_here(&pipeline),
    }
}

/// Takes an order, and answers once it is done.
pub(super) async fn order(
    State(pages): State<Arc<Pages>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((pipeline, order)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let refuse = |status, text: &str| (status, format!("{text}\n")).into_response();
    // A browser's request names its origin, a proxy's for whom it asks; a name may be anybody's.
    let passed_on =
        ["origin", "forwarded", "x-forwarded-for", "via"].iter().any(|h| headers.contains_key(*h));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let by_address = host.is_some_and(|host| host.parse::<SocketAddr>().is_ok());
    let is_local = peer.ip().to_canonical().is_loopback() && by_address && !passed_on;
    if !is_local || !headers.contains_key(ASKED_BY) {
        let text = "plugins are swapped on the machine alone on which wasmill runs, by `wasmill plugin`";
        return refuse(StatusCode::FORBIDDEN, text);
    }
    let query = query.unwrap_or_default();
    let mut given = form_urlencoded::parse(query.as_bytes());
    let plugin = given.find(|(name, _)| name == "plugin").map(|(_, plugin)| plugin.into_owned());
    let order = match (order.as_str(), plugin) {
        ("promote", Some(plugin)) => Order::Promote(plugin),
        ("promote", None) => return refuse(StatusCode::BAD_REQUEST, "`plugin` is missing: which one?"),
        ("rollback", plugin) => Order::Rollback(plugin),
        (other, _) => {
            return refuse(
                StatusCode::NOT_FOUND,
                &format!("there is no {other:?}; there are promote, rollback"),
            );
        }
    };
    let mut parts = pages.catalog.parts(&pipeline);
    // Where two parts have stages of one plugin, each has its own.
    if let Order::Promote(which) | Order::Rollback(Some(which)) = &order {
        let name = which.split('@').next().unwrap_or_default();
        if parts.iter().any(|part| part.has(name)) {
            parts.retain(|part| part.has(name));
        } else {
            parts.truncate(1);
        }
    }
    let mut done: Vec<String> = Vec::new();
    let mut refused: Vec<String> = Vec::new();
    // A part that has nothing to go back to is no failure, if another one has.
    let mut nothing = None;
    for part in &parts {
        let ended = || refuse(StatusCode::SERVICE_UNAVAILABLE, "the pipeline is about to end");
        let Some(orders) = &part.orders else { continue };
        let (answer, answered) = oneshot::channel();
        if orders.send(Asked { order: order.clone(), answer }).await.is_err() {
            return ended();
        }
        match answered.await {
            Ok(Ok(text)) => done.push(text),
            Ok(Err(NotDone::Nothing(why))) => nothing = Some(why),
            Ok(Err(NotDone::Refused(why))) => refused.push(why),
            Err(_) => return ended(),
        }
    }
    if done.is_empty() {
        refused.extend(nothing);
    }
    match (done.is_empty(), refused.is_empty()) {
        (true, true) => not_here(&pipeline),
        (false, true) => refuse(StatusCode::OK, &done.join("\n")),
        (_, false) => refuse(StatusCode::CONFLICT, &[done, refused].concat().join("\n")),
    }
}
