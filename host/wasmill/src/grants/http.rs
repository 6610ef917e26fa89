//! The client by which granted requests go out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use wasmill_connect::codec::asking;
use wasmill_plugin::{HttpMethod, HttpRequest, HttpResponse, Outgoing};

use crate::spec::{HttpSpec, HumanDuration};

/// What "in any second" is.
const SECOND: Duration = Duration::from_secs(1);

/// The thread that all clients' requests are on. A worker that waits for answers stands still, so they can't
/// be on the worker; and the pipeline's own runtime must not wait for them.
static RUNTIME: LazyLock<Result<Runtime, String>> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("wasmill-outgoing")
        .enable_all()
        .build()
        .map_err(|e| format!("can't start the thread of outgoing HTTP: {e}"))
});

/// The client of one stage, for all its workers.
#[derive(Debug)]
pub(crate) struct Client(Arc<Sending>);

#[derive(Debug)]
struct Sending {
    client: reqwest::Client,
    under_way: Semaphore,
    rate: Mutex<Rate>,
    timeout: Duration,
    response_bytes_max: usize,
}

impl Client {
    /// A client with a grant's bounds.
    pub(super) fn new(spec: &HttpSpec) -> Result<Self, String> {
        RUNTIME.as_ref().map_err(String::clone)?;
        let client = asking::client(spec.timeout)
            .build()
            .map_err(|e| format!("can't make the client of outgoing HTTP: {}", asking::cause(&e)))?;
        Ok(Self(Arc::new(Sending {
            client,
            under_way: Semaphore::new(spec.concurrency),
            rate: Mutex::new(Rate::new(spec.rate_per_second)),
            timeout: spec.timeout,
            response_bytes_max: spec.response_bytes_max,
        })))
    }
}

impl Outgoing for Client {
    fn send(
        &self,
        requests: Vec<HttpRequest>,
        bytes_max: usize,
        within: Duration,
    ) -> Vec<Result<HttpResponse, String>> {
        let late =
            || Err(format!("no answer within the {} that a call of the plugin may wait", human(within)));
        let mut answers: Vec<Result<HttpResponse, String>> = requests.iter().map(|_| late()).collect();
        let Ok(runtime) = RUNTIME.as_ref() else { return answers };
        let until = std::time::Instant::now() + within;
        let bytes_left = Arc::new(AtomicUsize::new(bytes_max));
        let (tell, told) = mpsc::channel();
        // Dropped at the end: what is under way then is given up.
        let mut tasks = JoinSet::new();
        for (place, request) in requests.into_iter().enumerate() {
            let (sending, tell, bytes_left) = (Arc::clone(&self.0), tell.clone(), Arc::clone(&bytes_left));
            let send = async move {
                // Nobody listens once the time is up.
                drop(tell.send((place, sending.send(request, &bytes_left, bytes_max).await)));
            };
            tasks.spawn_on(send, runtime.handle());
        }
        drop(tell);
        loop {
            match told.recv_timeout(until.saturating_duration_since(std::time::Instant::now())) {
                Ok((place, answer)) => answers[place] = answer,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return answers,
            }
        }
    }
}

fn human(duration: Duration) -> HumanDuration {
    HumanDuration(duration)
}

impl Sending {
    async fn send(
        &self,
        request: HttpRequest,
        bytes_left: &AtomicUsize,
        bytes_max: usize,
    ) -> Result<HttpResponse, String> {
        let closed = |_| "the client is closed".to_owned();
        let _under_way = self.under_way.acquire().await.map_err(closed)?;
        let goes = self.rate.lock().unwrap_or_else(PoisonError::into_inner).next(Instant::now());
        tokio::time::sleep_until(goes).await;
        let too_many =
            || format!("the answers of one call are above {bytes_max} bytes; ask for less at once");
        if bytes_left.load(Ordering::Relaxed) == 0 {
            return Err(too_many());
        }
        let response = self.ask(request).await?;
        let size = response.size_bytes();
        let taken =
            bytes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(size));
        match taken {
            Ok(_) => Ok(response),
            Err(_) => {
                bytes_left.store(0, Ordering::Relaxed);
                Err(too_many())
            }
        }
    }

    async fn ask(
        &self,
        HttpRequest { method, url, headers, body }: HttpRequest,
    ) -> Result<HttpResponse, String> {
        let mut asked = self.client.request(as_reqwest(method), url);
        for (name, value) in headers {
            asked = asked.header(name, value);
        }
        if !body.is_empty() {
            asked = asked.body(body);
        }
        let failed = |e: reqwest::Error| match e.is_timeout() {
            true => format!("no answer within {}", human(self.timeout)),
            false => asking::cause(&e),
        };
        let mut response = asked.send().await.map_err(failed)?;
        let headers = response.headers().iter();
        let headers = headers.filter_map(|(n, v)| Some((n.as_str().to_owned(), v.to_str().ok()?.to_owned())));
        let (status, headers) = (response.status().as_u16(), headers.collect());
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            if body.len() + piece.len() > self.response_bytes_max {
                let max = self.response_bytes_max;
                return Err(format!(
                    "the answer has more than {max} bytes, the grant's `response_bytes_max`"
                ));
            }
            body.extend_from_slice(&piece);
        }
        Ok(HttpResponse { status, headers, body })
    }
}

fn as_reqwest(method: HttpMethod) -> reqwest::Method {
    match method {
        HttpMethod::Get => reqwest::Method::GET,
        HttpMethod::Head => reqwest::Method::HEAD,
        HttpMethod::Post => reqwest::Method::POST,
        HttpMethod::Put => reqwest::Method::PUT,
        HttpMethod::Patch => reqwest::Method::PATCH,
        HttpMethod::Delete => reqwest::Method::DELETE,
        HttpMethod::Options => reqwest::Method::OPTIONS,
    }
}

/// At most so many in any second.
#[derive(Debug)]
struct Rate {
    per_second: usize,
    /// When the last of them go or went, so many at most.
    gone: VecDeque<Instant>,
}

impl Rate {
    fn new(per_second: u32) -> Self {
        let per_second = usize::try_from(per_second).unwrap_or(usize::MAX);
        Self { per_second, gone: VecDeque::new() }
    }

    /// When the next one may go.
    fn next(&mut self, now: Instant) -> Instant {
        let mut goes = now;
        if self.gone.len() >= self.per_second
            && let Some(first) = self.gone.pop_front()
        {
            goes = goes.max(first + SECOND);
        }
        self.gone.push_back(goes);
        goes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_the_rate_and_none_waits_without_need() {
        let start = Instant::now();
        let mut rate = Rate::new(3);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let goes: Vec<u128> = [0, 0, 500, 600, 600, 2_000, 2_000, 2_000, 2_000]
            .map(|ms| rate.next(at(ms)).duration_since(start).as_millis())
            .to_vec();
        assert_eq!(goes, [0, 0, 500, 1_000, 1_000, 2_000, 2_000, 2_000, 3_000]);
        assert!(rate.gone.len() <= 3, "as many are remembered as the rate is");
    }
}
