//! Outgoing HTTP.

use std::sync::Arc;

use wasmtime::component::{ComponentType, Lift, Linker, Lower};

use super::{Cx, wait};
use crate::budget::Budget;
use crate::context::{Ctx, TooManyRequests};
use crate::contract::full_name;
use crate::engines::Mode;
use crate::outgoing::{HttpRequest, HttpResponse};

/// The most requests of one call of the guest's, whatever the rate.
const REQUESTS_MAX: usize = 10_000;

#[derive(Debug, ComponentType, Lift, Lower)]
#[component(record)]
struct Header {
    name: String,
    value: String,
}

#[derive(Debug, ComponentType, Lift)]
#[component(record)]
struct Request {
    method: String,
    url: String,
    headers: Vec<Header>,
    body: Vec<u8>,
}

#[derive(Debug, ComponentType, Lower)]
#[component(record)]
struct Response {
    status: u16,
    headers: Vec<Header>,
    body: Vec<u8>,
}

impl From<HttpResponse> for Response {
    fn from(HttpResponse { status, headers, body }: HttpResponse) -> Self {
        let headers = headers.into_iter().map(|(name, value)| Header { name, value }).collect();
        Self { status, headers, body }
    }
}

type Answers = Vec<Result<Response, String>>;

/// Adds the `http` import.
pub(super) fn add(linker: &mut Linker<Ctx>) -> wasmtime::Result<()> {
    let mut http = linker.instance(&full_name("http"))?;
    http.func_wrap("send", |mut cx: Cx<'_>, (request,): (Request,)| {
        cx.data_mut().enter()?;
        let answer = wait::outside(&mut cx, |cx| send(cx, vec![request]))??.pop();
        Ok((answer.unwrap_or_else(|| Err(NO_ANSWER.to_owned())),))
    })?;
    http.func_wrap("send-many", |mut cx: Cx<'_>, (requests,): (Vec<Request>,)| {
        cx.data_mut().enter()?;
        Ok((wait::outside(&mut cx, |cx| send(cx, requests))??,))
    })
}

const NO_ANSWER: &str = "no answer";

/// Sends what is granted of these, side by side. Each has an answer or a reason, in their order.
///
/// # Errors
/// With [`TooManyRequests`] where a batch asks for too many; a verdict is told so in place of their answers.
fn send(cx: &mut Ctx, requests: Vec<Request>) -> wasmtime::Result<Answers> {
    let shared = Arc::clone(&cx.shared);
    let none = |reason: &str| Ok(requests.iter().map(|_| Err(reason.to_owned())).collect());
    let Some(grant) = &shared.behind.http else { return none("no origin is granted") };
    let max = requests_max(grant.rate_per_second, shared.limits.host_wait_ms_max);
    // Before any is sent: a count says the same each time, how long they take does not.
    if requests.len() > max.saturating_sub(cx.http_requests) {
        if cx.mode == Mode::Production {
            return Err(wasmtime::Error::new(TooManyRequests));
        }
        shared.counters.hit(Budget::HostWait);
        return none(&format!(
            "more than {max} requests in one call of the plugin, as many as may go: `rate_per_second` of its grant for the time of `limits.host_wait`, {REQUESTS_MAX} at most"
        ));
    }
    if cx.host_wait_left().is_zero() {
        return none(&format!(
            "earlier calls to the host took all of the {} ms that a call of the plugin may wait: `limits.host_wait`",
            shared.limits.host_wait_ms_max
        ));
    }
    cx.http_requests += requests.len();
    let mut answers: Answers = Vec::with_capacity(requests.len());
    let (mut granted, mut places): (Vec<HttpRequest>, Vec<usize>) = (Vec::new(), Vec::new());
    for Request { method, url, headers, body } in requests {
        let headers = headers.into_iter().map(|h| (h.name, h.value)).collect();
        match grant.check(&method, &url, headers, body) {
            Ok(request) => {
                places.push(answers.len());
                granted.push(request);
                answers.push(Err(NO_ANSWER.to_owned()));
            }
            Err(reason) => answers.push(Err(reason)),
        }
    }
    if granted.is_empty() {
        return Ok(answers);
    }
    let sent = grant.client.send(granted, shared.limits.answer_bytes_max, cx.host_wait_left());
    for (place, answer) in places.into_iter().zip(sent) {
        answers[place] = answer.map(Response::from);
    }
    Ok(answers)
}

/// How many requests one call of the guest's may make: what the rate lets go in the time that it may wait.
fn requests_max(rate_per_second: u32, host_wait_ms_max: u64) -> usize {
    let go = u64::from(rate_per_second).saturating_mul(host_wait_ms_max) / 1_000;
    usize::try_from(go).unwrap_or(usize::MAX).clamp(1, REQUESTS_MAX)
}

#[cfg(test)]
mod tests {
    use super::{REQUESTS_MAX, requests_max};

    #[test]
    fn a_call_may_make_as_many_requests_as_go_in_its_time() {
        for (rate, wait_ms, max) in
            [(100, 30_000, 3_000), (1, 1_999, 1), (1, 10, 1), (100_000, 30_000, REQUESTS_MAX)]
        {
            assert_eq!(requests_max(rate, wait_ms), max, "{rate} a second, {wait_ms} ms");
        }
    }
}
