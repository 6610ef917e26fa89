//! Outgoing HTTP.

use std::sync::Arc;

use wasmtime::component::{ComponentType, Lift, Linker, Lower};

use super::{Cx, wait};
use crate::context::Ctx;
use crate::contract::full_name;
use crate::outgoing::{HttpRequest, HttpResponse};

/// The most requests of one call of the guest's.
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
        let answer = wait::outside(&mut cx, |cx| send(cx, vec![request]))?.pop();
        Ok((answer.unwrap_or_else(|| Err(NO_ANSWER.to_owned())),))
    })?;
    http.func_wrap("send-many", |mut cx: Cx<'_>, (requests,): (Vec<Request>,)| {
        cx.data_mut().enter()?;
        Ok((wait::outside(&mut cx, |cx| send(cx, requests))?,))
    })
}

const NO_ANSWER: &str = "no answer";

/// Sends what is granted of these, side by side. Each has an answer or a reason, in their order.
fn send(cx: &mut Ctx, requests: Vec<Request>) -> Answers {
    let shared = Arc::clone(&cx.shared);
    let Some(grant) = &shared.behind.http else {
        return requests.iter().map(|_| Err("no origin is granted".to_owned())).collect();
    };
    let mut answers: Answers = Vec::with_capacity(requests.len());
    let (mut granted, mut places): (Vec<HttpRequest>, Vec<usize>) = (Vec::new(), Vec::new());
    for Request { method, url, headers, body } in requests {
        if cx.http_requests >= REQUESTS_MAX {
            answers.push(Err(format!("more than {REQUESTS_MAX} requests in one call of the plugin")));
            continue;
        }
        cx.http_requests += 1;
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
        return answers;
    }
    let sent = grant.client.send(granted, shared.limits.answer_bytes_max, cx.host_wait_left());
    for (place, answer) in places.into_iter().zip(sent) {
        answers[place] = answer.map(Response::from);
    }
    answers
}
