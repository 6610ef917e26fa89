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
use super::swapper::{Asked, Order};

/// The header without which no swap is asked for: a page of another site can't set it.
const ASKED_BY: &str = "x-wasmill";

/// A version that is there and doesn't run.
#[derive(Debug, Clone, Serialize)]
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

/// The plugins of the pipelines that run, by their names.
#[derive(Debug, Default)]
pub(super) struct Catalog(Mutex<BTreeMap<String, Listed>>);

impl Catalog {
    fn with<T>(&self, pipeline: &str, change: impl FnOnce(&mut Listed) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(pipeline.to_owned()).or_default())
    }

    fn get(&self, pipeline: &str) -> Option<Listed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(pipeline).cloned()
    }

    /// A run of a pipeline begins; orders go there.
    pub fn begins(&self, pipeline: &str, plugins: &Plugins) -> mpsc::Receiver<Asked> {
        let (orders, asked) = mpsc::channel(1);
        self.with(pipeline, |listed| {
            listed.plugins = plugins.clone();
            listed.orders = Some(orders);
        });
        asked
    }

    /// Other plugins run.
    pub fn runs(&self, pipeline: &str, plugins: &Plugins) {
        self.with(pipeline, |listed| {
            let is_there = |w: &Waiting| plugins.now.contains(&w.of);
            listed.waiting.retain(|_, waiting| !is_there(waiting));
            listed.plugins = plugins.clone();
        });
    }

    /// A version doesn't run.
    pub fn waits(&self, pipeline: &str, waiting: Waiting) {
        self.with(pipeline, |listed| listed.waiting.insert(waiting.of.stage.clone(), waiting));
    }
}

fn not_here(pipeline: &str) -> Response {
    (StatusCode::NOT_FOUND, format!("no pipeline `{pipeline}` runs here, or it is only starting\n"))
        .into_response()
}

/// Shows a pipeline's plugins.
pub(super) async fn list(State(pages): State<Arc<Pages>>, Path(pipeline): Path<String>) -> Response {
    match pages.catalog.get(&pipeline) {
        Some(listed) => match serde_json::to_vec(&listed) {
            Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
            Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
        },
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
    let Some(orders) = pages.catalog.get(&pipeline).and_then(|listed| listed.orders) else {
        return not_here(&pipeline);
    };
    let (answer, answered) = oneshot::channel();
    let ended = || refuse(StatusCode::SERVICE_UNAVAILABLE, "the pipeline is about to end");
    if orders.send(Asked { order, answer }).await.is_err() {
        return ended();
    }
    match answered.await {
        Ok(Ok(done)) => refuse(StatusCode::OK, &done),
        Ok(Err(why)) => refuse(StatusCode::CONFLICT, &why),
        Err(_) => ended(),
    }
}
