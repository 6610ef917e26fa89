//! The pages for operators: `/metrics`, `/live`, `/ready`, `/state`, `/plugins`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use prometheus::{Encoder as _, Registry, TextEncoder};
use wasmill_plugin::Sandbox;

use super::health::Health;
use super::plugin_metrics;
use super::plugin_pages::{self, Catalog};
use super::state_pages::{self, StatePages};

/// What the pages show.
pub(super) struct Pages {
    pub registry: Registry,
    pub health: Arc<Health>,
    pub sandboxes: std::sync::Mutex<Vec<(String, Arc<Sandbox>)>>,
    pub states: StatePages,
    pub catalog: Arc<Catalog>,
}

impl Pages {
    /// Shows the counters of a pipeline's plugins from now on.
    pub fn show(&self, pipeline: &str, sandbox: &Arc<Sandbox>) {
        let mut all = self.sandboxes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.retain(|(name, _)| name != pipeline);
        all.push((pipeline.to_owned(), Arc::clone(sandbox)));
    }
}

/// Serves the pages at an address until the process ends.
///
/// # Errors
/// When the address can't be had.
pub(super) async fn serve(address: SocketAddr, pages: Arc<Pages>) -> Result<(), String> {
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|e| {
        format!("can't listen on {address} for the HTTP pages: {e}; set `http` to another address")
    })?;
    let bound = listener.local_addr().unwrap_or(address);
    tracing::info!(address = %bound, "HTTP pages: /metrics /live /ready /state /plugins");
    let app = Router::new()
        .route("/metrics", get(metrics))
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/state/{pipeline}/{page}", get(state_pages::answer))
        .route("/plugins/{pipeline}", get(plugin_pages::list))
        .route("/plugins/{pipeline}/{order}", post(plugin_pages::order))
        .with_state(pages);
    tokio::spawn(async move {
        if let Err(error) =
            axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
        {
            tracing::error!(%error, "the HTTP pages have ended");
        }
    });
    Ok(())
}

async fn ready(State(pages): State<Arc<Pages>>) -> impl IntoResponse {
    let reasons = pages.health.reasons();
    if reasons.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready:\n{}\n", reasons.join("\n")))
    }
}

async fn metrics(State(pages): State<Arc<Pages>>) -> impl IntoResponse {
    let mut families = pages.registry.gather();
    families.extend(plugin_metrics::families(
        &pages.sandboxes.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
    ));
    let mut text = Vec::new();
    match TextEncoder::new().encode(&families, &mut text) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text),
        Err(e) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            format!("{e}\n").into_bytes(),
        ),
    }
}
